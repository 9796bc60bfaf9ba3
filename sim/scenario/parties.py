"""The tables ``[[parties]]``: who holds which columns of the same patients, and who holds their label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, Strict

from sim.foundation.problems import show
from sim.scenario.base import Number, Sites, unique
from sim.scenario.data import DataSpec
from sim.scenario.study import ClinicGroup, Name, Place


class Party(Place):
    """One party of vertical learning: its columns of every patient, its link and its computer.

    ``columns`` names columns of the source; a category's column stands for all its levels. ``label`` says whose the
    label is. ``share`` is that of the source's patients whom the party knows, drawn by the seed: with less than all,
    those whom all parties know are found out by private set intersection, and train and are tested. ``regions`` names
    those that have the party, where there are regions and not all have it.
    """

    _one_place = "a party"
    name: Name
    columns: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(unique)]
    label: Annotated[bool, Strict()] = False
    share: Annotated[Number, Field(gt=0, le=1)] = 1.0
    regions: Sites | None = None


def clinics_of(parties: Sequence[Party]) -> tuple[ClinicGroup, ...]:
    """Return the parties' links and computers, as those of clinics."""
    own = {"name", "columns", "label", "share", "regions"}
    return tuple(
        ClinicGroup.model_validate({"sites": (party.name,), **party.model_dump(exclude=own)}) for party in parties
    )


def layout_fault(data: DataSpec, parties: Sequence[Party], *, own_clinics: bool) -> str:
    """Say how parties and the layout of the data do not go together; empty if they do."""
    if data.layout == "horizontal":
        mend = 'remove them, or set data.layout = "vertical"'
        return f"have no effect on a horizontal layout; {mend}" if parties else ""
    if not data.regions and any(party.regions for party in parties):
        return "there are no regions to name; remove their regions, or set data.regions = true"
    if (data.split != "natural" and not data.regions) or data.test != "held-out-records" or data.source == "npz":
        mend = 'take a table, split = "natural", and test = "held-out-records"'
        return f"share out the columns of one table of patients; {mend}"
    if data.regions and (named := [party.name for party in parties if ": " in party.name]):
        return f'{show(named[0])} would not be told from a region and its party; leave ": " out of the name'
    if faults := _faults(parties):
        return "; ".join(faults)
    return "bring their links and computers themselves; remove [[clinics]]" if own_clinics else ""


def _faults(parties: Sequence[Party]) -> list[str]:
    """Say what is wrong with the parties as a whole."""
    names, holders = [party.name for party in parties], [party.name for party in parties if party.label]
    faults = []
    if len(parties) < 2:
        faults.append("there must be at least two; add a party")
    if len(set(names)) < len(names):
        faults.append("two have the same name; give each a name of its own")
    if len(holders) != 1:
        found = f"{', '.join(holders)} have" if holders else "none has"
        faults.append(f"{found} label = true; give it to the one party that holds the label")
    faults += [
        f"{party.name} has the label, without which no region trains; remove its regions"
        for party in parties
        if party.label and party.regions is not None
    ]
    taken: dict[str, str] = {}
    for party in parties:
        for column in party.columns:
            if column in taken and taken[column] != party.name:
                faults.append(f"\"{column}\" is {taken[column]}'s and {party.name}'s; name each column once")
            taken[column] = party.name
    return faults
