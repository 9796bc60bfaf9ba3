"""What one value in a file of a results folder may be."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from sim.foundation.problems import unwritable


def revived(value: object) -> object:
    """Return infinity where a file says so in letters, as JSON must."""
    return float(value) if isinstance(value, str) and value in ("inf", "-inf") else value


def visible(text: str) -> str:
    """Return a text if all of it can be seen."""
    if unwritable(text):
        raise ValueError("has a control or formatting character")
    return text


RunId = Annotated[str, Strict(), Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
StudyName = Annotated[str, Strict(), Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Name = Annotated[str, Strict(), Field(max_length=1000), AfterValidator(visible)]
Names = Annotated[str, Strict(), Field(max_length=10_000_000), AfterValidator(visible)]
Text = Annotated[str, Strict(), Field(max_length=100_000)]
Amount = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Real = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Share = Annotated[float, Strict(), Field(ge=0, le=1)]
Count = Annotated[int, Strict(), Field(ge=0)]
Rounds = Annotated[int, Strict(), Field(ge=0, le=10**9)]
Seed = Annotated[int, Strict(), Field(ge=0, lt=2**63)]
Bound = Annotated[float, Strict(), BeforeValidator(revived), Field(ge=0)]
"""An epsilon, a loss, a scale of noise: infinity is one too."""
Hash = Annotated[str, Strict(), Field(pattern=r"^[0-9a-f]{64}$")]
