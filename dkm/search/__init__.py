"""Searches over runs: sweeps, the number of clusters, studies of settings."""
