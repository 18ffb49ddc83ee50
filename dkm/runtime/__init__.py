"""The machine: devices, processes, signals, checkpoints and files that are written whole."""
