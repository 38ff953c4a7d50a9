"""Environments in which policies are evaluated. Importing this package registers `gym`."""
