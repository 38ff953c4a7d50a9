"""The process and its machine: streams, signals, files, random numbers, the device."""
