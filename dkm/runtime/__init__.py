"""Devices, processes, signals, checkpoints, locks and atomic file writes."""
