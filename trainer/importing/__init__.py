"""Configs of other programs, read and written as innerstep's YAML."""
