"""The tables ``[[parties]]`` and ``[[regions]]``: who holds which columns of which patients, and who their label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, Strict

from sim.foundation.problems import ScenarioError, show, suggest
from sim.foundation.text import listed
from sim.scenario.base import Number, Sites, unique
from sim.scenario.data import DataSpec
from sim.scenario.lookup import method_facts
from sim.scenario.study import ClinicGroup, Equipment, Name, Place


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


class Region(Equipment):
    """Links and computers of some regions' parties, in place of those that the parties have elsewhere.

    ``sites`` are the regions, and ``parties`` those of their parties that it is about; all without it.
    """

    _one_place = "each party"
    sites: Sites
    parties: Annotated[tuple[str, ...], AfterValidator(unique)] = ()

    def covers(self, region: str, party: str) -> bool:
        """Say whether it is about a party of a region."""
        return region in self.sites and (not self.parties or party in self.parties)


def regions_fault(regions: Sequence[Region], parties: Sequence[Party], *, there: bool) -> str:
    """Say what is wrong with the tables of regions; empty if nothing is."""
    if regions and not there:
        return "there are none; remove them, or set data.regions = true"
    names = tuple(party.name for party in parties)
    at = {party.name: party.regions for party in parties}
    for number, own in enumerate(regions):
        for name in own.parties:
            if name not in names:
                return f"{show(name)} is no party; {suggest(name, names)}"
            if (regions_of := at[name]) is not None and not {*regions_of} & {*own.sites}:
                where = listed(own.sites)
                return f"{show(name)} is not in {where}; remove it there, or add {where} to its regions"
        for other in regions[:number]:
            if twice := [(r, p) for r in own.sites for p in names if own.covers(r, p) and other.covers(r, p)]:
                return f"{twice[0][1]} of {twice[0][0]} is in two tables; leave it in one"
    return ""


def group_at(group: ClinicGroup, regions: Iterable[Region], region: str, party: str) -> ClinicGroup:
    """Return the link and the computer of a party in a region, from those that it has elsewhere."""
    own = next((table for table in regions if table.covers(region, party)), None)
    return group if own is None else group.model_copy(update={key: getattr(own, key) for key in Equipment.model_fields})


def unknown_regions(regions: Sequence[Region], known: Sequence[str]) -> None:
    """Raise ``ScenarioError`` with a line for each region of a table that the data do not have."""
    problems = [
        f'scenario: regions.{number}.sites: "{site}" is no region; {suggest(site, tuple(known))}'
        for number, own in enumerate(regions)
        for site in own.sites
        if site not in known
    ]
    if problems:
        raise ScenarioError(problems)


def as_clinics(parties: Sequence[Party], groups: Sequence[ClinicGroup], regions: Sequence[Region]) -> list[ClinicGroup]:
    """Return each region as a clinic that has all columns of its patients, at the place that has the label.

    Columns of a party that a region does not have are missing there.

    Parameters
    ----------
    groups : sequence of ClinicGroup
        Of the parties.
    """
    [(holder, group)] = [(party.name, own) for party, own in zip(parties, groups, strict=True) if party.label]
    some = [site for party in parties for site in party.regions or ()]
    some += [site for own in regions if own.covers(own.sites[0], holder) for site in own.sites]

    def clinic(site: str | None) -> ClinicGroup:
        lacking = [party for party in parties if party.regions is not None and site not in party.regions]
        place = group if site is None else group_at(group, regions, site, holder)
        columns = tuple(column for party in lacking for column in party.columns)
        return place.model_copy(update={"sites": site and (site,), "missing_columns": columns})

    return [*map(clinic, dict.fromkeys(some)), clinic(None)]


def is_of_clinics(strategy: str) -> bool:
    """Say whether a method is for clinics with patients of their own alone, and takes a region for one."""
    return "vertical" not in getattr(method_facts(strategy), "layouts", ())


def other_patients(regions: bool, parties: Iterable[Party], strategy: str) -> str:
    """Say why a method that takes a region for a clinic would not be on the patients of the others; empty if it is."""
    if not regions or not is_of_clinics(strategy) or all(party.share == 1 for party in parties):
        return ""
    return f"{strategy} would train on patients whom not all parties know; drop it, or the parties' share"
