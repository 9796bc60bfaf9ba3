"""Tables of the report beside the results: what methods need, whom they serve worst, and what clinics hold."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pandas as pd

from sim.foundation.text import amount_text, bytes_text, score_text, seconds_text, span_text
from sim.report.spoken import between_parties, spoken
from sim.report.study import StudyResults
from sim.report.summary import of_one_kind, successful_runs

Forms = dict[str, tuple[str, Callable[[float], str]]]
"""By heading: a column, and how its values are written."""

_CLINICS = 40
_CLASSES = 8


def resource_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """Lay out what a run of each method needs, as a mean over seeds and levels of privacy.

    One row a series, as text; columns that no run has are left out.
    """
    site = "party" if between_parties(runs) else "clinic"
    forms: Forms = {
        "Simulated time": ("sim_seconds", seconds_text),
        "Sent up": ("bytes_up", bytes_text),
        "Sent down": ("bytes_down", bytes_text),
        f"{site.capitalize()} FLOPs (total)": ("clinic_flops", _flops_text),
        "Server FLOPs": ("server_flops", _flops_text),
        f"Peak {site} memory": ("peak_clinic_bytes", bytes_text),
        "Time to simulate": ("wall_seconds", seconds_text),
    }
    ok, _ = of_one_kind(successful_runs(runs))
    forms = {name: (column, text) for name, (column, text) in forms.items() if column in ok}
    means = ok.groupby("series", sort=False)[[column for column, _ in forms.values()]].mean()
    table = {name: [text(value) for value in means[column]] for name, (column, text) in forms.items()}
    return pd.DataFrame({"Method": means.index, **table})


def demand_frame(study: StudyResults) -> pd.DataFrame:
    """Lay out what a run of each method asks of one clinic, as a mean over seeds and levels of privacy.

    One row a series, as text: the least and the most over the clinics. What some clinic's plan does not give (energy
    without power) is left out, and so are the rows of regions and of held-out clinics, of which nothing is asked. Empty
    where no run succeeded.
    """
    if study.clinics.empty:
        return pd.DataFrame()
    forms: Forms = {
        "FLOPs": ("flops", _flops_text),
        "Busy": ("seconds", seconds_text),
        "Sent": ("bytes_up", bytes_text),
        "Received": ("bytes_down", bytes_text),
        "Memory": ("peak_bytes", bytes_text),
        "Energy": ("joules", partial(amount_text, unit="J")),
    }
    asked = study.clinics.dropna(subset=study.clinics.columns.intersection(["seconds"]))
    own = asked.merge(study.drawn[["run_id", "series"]], on="run_id")
    forms = {name: form for name, form in forms.items() if form[0] in own and own[form[0]].notna().all()}
    if not forms:
        return pd.DataFrame()
    means = own.groupby(["series", "name"], sort=False)[[column for column, _ in forms.values()]].mean()
    groups = means.groupby("series", sort=False)
    low, high = groups.min(), groups.max()
    table = {
        name: [_from_to(text(least), text(most)) for least, most in zip(low[column], high[column], strict=True)]
        for name, (column, text) in forms.items()
    }
    return pd.DataFrame({"Method": low.index, **table})


def _from_to(least: str, most: str) -> str:
    """Write both ends of a range, and what they have in common once."""
    if least == most:
        return most
    number, _, unit = least.partition(" ")
    return f"{number if unit == most.partition(' ')[2] else least} to {most}"


def worst_frame(study: StudyResults) -> pd.DataFrame:
    """Name the clinic that each method serves worst, at each level of privacy.

    One row a series and one column a level, as text: the clinic with the lowest score in most seeds, how many they are,
    and the mean of the lowest score. Empty where no run names one.
    """
    ok = study.drawn
    lowest = spoken(ok).worst
    if "worst_clinic" not in ok or ok[lowest].isna().all():
        return pd.DataFrame()
    groups = ok.groupby(["series", "level"], sort=False, observed=True)
    cells = {key: _worst(group, lowest) for key, group in groups}
    series = ok["series"].drop_duplicates()
    levels = [str(level) for level in ok["level"].cat.categories]
    table = {level: [cells.get((name, level), "–") for name in series] for level in levels}
    return pd.DataFrame({"Method": series.to_numpy(), **table})


def _worst(group: pd.DataFrame, lowest: str) -> str:
    named = group.loc[group["worst_clinic"].fillna("") != "", "worst_clinic"]
    if named.empty:
        return "–"
    counts = named.value_counts()
    return f"{counts.index[0]} ({counts.iloc[0]} of {group['seed'].nunique()}), {score_text(group[lowest].mean())}"


def clinic_rows(study: StudyResults) -> pd.DataFrame:
    """Lay out what each clinic holds, as text: records by part and, of up to 8, by class; the range over seeds.

    Classes are left out where any run of the study is private: its clinics are those of the others too.

    One row a clinic; of more than 40 those with most records. Empty where no run succeeded.
    """
    if study.clinics.empty:
        return pd.DataFrame()
    counted = {"Training records": "records", "Held-out records": "test_records"}
    classes = [str(column) for column in study.clinics if str(column).startswith("class ")]
    if len(classes) <= _CLASSES and (study.runs["mechanism"] == "none").all():
        counted |= {f"Of class {column.removeprefix('class ')}": column for column in classes}
    rows, heading = study.clinics, "Clinic"
    if between_parties(study.runs):  # whose patients are counted at who has the label, or by region
        rows = rows[rows["test_records"] > 0]
        heading = "Region" if len(set(rows["name"])) > 1 else "Label at"
    groups = rows.groupby("name", sort=False)[list(counted.values())]
    low, high = groups.min(), groups.max()
    order = high["records"].sort_values(ascending=False, kind="stable").index[:_CLINICS]
    kept = [name for name in low.index if name in set(order)]
    table = {
        name: [span_text(*(f"{ends.loc[clinic, column]:,.0f}" for ends in (low, high))) for clinic in kept]
        for name, column in counted.items()
    }
    return pd.DataFrame({heading: kept, **table})


_flops_text = partial(amount_text, unit="FLOP")


def gap_frame(points: pd.DataFrame) -> pd.DataFrame:
    """Lay out the gaps as text: a row a method and level, a column a column of groups.

    The highest less the lowest mean score of a group, and which group has the lowest.
    """
    rows = []
    for (series, level), own in points.groupby(["series", "level"], sort=False, observed=True):
        cells = {}
        for column, each in own.groupby("column", sort=False):
            least = each.sort_values("mean", kind="stable").iloc[0]
            gap, lowest = score_text(float(each["mean"].max() - least["mean"])), score_text(least["mean"])
            cells[str(column)] = f"{gap} (lowest: {str(least['patients']).partition(': ')[2]}, {lowest})"
        rows.append({"Method": str(series), "Privacy": str(level), **cells})
    return pd.DataFrame(rows).fillna("–")
