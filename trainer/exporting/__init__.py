"""Trained runs as files for other programs: one script and one safetensors file, or LeRobot's folder."""
