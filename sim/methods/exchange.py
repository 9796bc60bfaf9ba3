"""What a round is written against: the exchange with the clinics, and the state between rounds."""

from __future__ import annotations


class Exchange:
    """The server's side of the exchange with the clinics."""


class State:
    """What the server holds between rounds."""
