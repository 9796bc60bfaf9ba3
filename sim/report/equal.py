"""Series that are equal bit for bit share a name, a line and a mark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import pandas as pd

from sim.methods.labels import method_label

Names: TypeAlias = dict[str, str]
"""By series, its name: its own, or one for all that are equal."""


def equals(ok: pd.DataFrame, columns: Sequence[str]) -> Names:
    """Name series that have the same values in every run, bit for bit, together: "FedAvg = SplitFed V1, vanilla".

    Where all cuts and settings of a method are equal they are not named.
    """
    labels = ok["strategy"].map(method_label)
    label_of = dict(zip(ok["series"], labels, strict=True))
    found: dict[bytes, list[str]] = {}
    for series, own in ok.assign(level=ok["level"].cat.codes).groupby("series", sort=False):
        values = own.sort_values(["level", "seed"])[["level", "seed", *columns]].to_numpy(float)
        found.setdefault(values.tobytes(), []).append(str(series))
    names: Names = {}
    for alike in found.values():
        whole = [name for name in labels.unique() if set(ok.loc[labels == name, "series"]) <= set(alike)]
        told = dict.fromkeys(
            label_of[series] if len(alike) > 1 and label_of[series] in whole else series for series in alike
        )
        names |= dict.fromkeys(alike, " = ".join(told))
    return names


def together(table: pd.DataFrame, names: Names) -> pd.DataFrame:
    """Keep the first of the table's series that share a name, under that name."""
    there = set(table["series"])
    firsts = {name: series for series, name in reversed(names.items()) if series in there}
    kept = table[table["series"].isin(set(firsts.values()))]
    return kept.assign(series=kept["series"].map(names))


def together_by_level(table: pd.DataFrame, names: Mapping[str, Names]) -> pd.DataFrame:
    """Keep one of the series that are equal at a level; `names` by level."""
    return pd.concat([together(table[table["level"] == level], own) for level, own in names.items()], ignore_index=True)


def members_of(named: Iterable[Names]) -> dict[str, list[str]]:
    """Return the series of every name that several share, in reading order."""
    return {
        shared: [series for series, name in names.items() if name == shared]
        for names in named
        for shared in dict.fromkeys(names.values())
        if shared not in names
    }
