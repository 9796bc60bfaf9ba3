"""Measurements, each with the command that makes it."""
