"""Sweeps: runs, workers and the store."""
