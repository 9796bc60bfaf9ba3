"""A study from Python and by command: what ``suture run`` does, with data in memory and results as data frames."""

from typing import Final

UPLINKS: Final = "uplink=0.1..1000 Mbit/s"
"""What a map re-times by unless it is told."""
