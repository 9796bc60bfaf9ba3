"""The tables ``[[edges]]``: servers between clinics and cloud, such as a hospital group's, and whose they are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from pydantic import Field

from sim.foundation.problems import show, suggest
from sim.scenario.base import Sites, Whole
from sim.scenario.clinics import EdgeResources, assign_resources
from sim.scenario.lookup import method_facts
from sim.scenario.study import ClinicGroup, Equipment, Name, Strategy

MULTI_HOP: Final = ("multi-hop", "multi-hop-u-shaped")
"""The cuts with three places: head at the clinic, middle at its edge server, body at the cloud; and a tail again at the
clinic."""


class Edge(Equipment):
    """A server between its clinics and the cloud: whose it is, its link to the cloud and its computer.

    ``workers`` says how many batches it trains on at once, each at its full rate.
    """

    _one_place = "an edge server"
    name: Name
    clinics: Sites
    workers: Whole = Field(default=4, ge=1, le=1_000_000)


def edges_fault(edges: Sequence[Edge], *, vertical: bool) -> str:
    """Say what is wrong with the edge servers of a scenario as a whole; empty if nothing is."""
    if edges and vertical:
        return 'have clinics with patients of their own; remove them, or set data.layout = "horizontal"'
    names = [edge.name for edge in edges]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        return f"two are called {show(twice[0])}; give each a name of its own"
    home: dict[str, str] = {}
    for edge in edges:
        for clinic in edge.clinics:
            if clinic in home:
                return f"{show(clinic)} is a clinic of {home[clinic]} and of {edge.name}; name each clinic once"
            home[clinic] = edge.name
    return ""


def goes_through_edges(name: str, cut: str | None) -> bool:
    """Whether a strategy, with a cut, has edge servers between clinics and cloud."""
    return cut in MULTI_HOP or getattr(method_facts(name), "edge_round", None) is not None


def unused_or_missing(edges: Sequence[Edge], strategies: Iterable[Strategy]) -> str:
    """Say if a strategy needs edge servers that are not there, or those that are there serve none; empty otherwise."""
    through = [
        (strategy.name, cut)
        for strategy in strategies
        for cut in strategy.cut or (None,)
        if goes_through_edges(strategy.name, cut)
    ]
    if through and not edges:
        name, cut = through[0]
        what = f"{name} with the cut {cut}" if cut in MULTI_HOP else name
        return f"{what} has servers between clinics and cloud; add [[edges]] with name, clinics and a link"
    if edges and not through:
        return (
            "none of them has a place for [[edges]]; remove those, take hierarchical-splitfed, or "
            f'cut = "{MULTI_HOP[0]}" under a SplitFed'
        )
    return ""


def edge_resources(edges: Sequence[Edge], names: Sequence[str], seed: int) -> tuple[EdgeResources, ...]:
    """Return link and computer of each edge server that is named, in that order."""
    by_name = {edge.name: edge for edge in edges}
    groups = [
        ClinicGroup.model_validate(
            {"sites": (name,), **by_name[name].model_dump(exclude={"name", "clinics", "workers"})}
        )
        for name in names
    ]
    own = assign_resources(groups, names, seed)
    return tuple(EdgeResources(each, by_name[name].workers) for each, name in zip(own, names, strict=True))


def membership_problems(edges: Sequence[Edge], everyone: Collection[str], taking_part: Iterable[str]) -> list[str]:
    """Return a line for each clinic of an edge server that does not exist, and each clinic that has none."""
    named = {clinic for edge in edges for clinic in edge.clinics}
    problems = [
        f"edges.{place}.clinics: unknown clinic {show(clinic)}; {suggest(clinic, tuple(everyone))}"
        for place, edge in enumerate(edges)
        for clinic in edge.clinics
        if clinic not in everyone
    ]
    return problems + [
        f"edges: clinic {show(clinic)} has no edge server; name it in the clinics of one"
        for clinic in taking_part
        if clinic not in named
    ]
