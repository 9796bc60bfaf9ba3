"""What keys a run's secret draws."""

from __future__ import annotations

from hashlib import blake2b

from sim.data.facts import Facts


def run_key(digest: str, facts: Facts) -> str:
    """Return what keys a run's noise, randomised answers and secret batches: its digest and every record.

    Two runs that differ in a setting or in one record share no draw, and a digest, which is published, is not enough.
    """
    return blake2b(f"{digest}/{facts.fingerprint}".encode(), digest_size=32).hexdigest()
