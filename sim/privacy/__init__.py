"""Mechanisms, events and the one ledger of differential privacy."""
