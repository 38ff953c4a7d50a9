"""A robot arm that presses a button: its environment, and demonstrations of the task."""
