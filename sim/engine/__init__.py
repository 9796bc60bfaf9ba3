"""Runs what clinics and server compute, over lanes, behind Flower grids."""
