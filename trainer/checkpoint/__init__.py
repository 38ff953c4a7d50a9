"""Checkpoints: contents, files, and the way back from one."""
