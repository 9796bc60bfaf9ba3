"""The numbers behind the charts: means with intervals over seeds, by series and level of privacy.

A *series* is a method with the swept settings that set it apart; a *level* is what the study swept to add more or less
noise. Each function returns one row a mark, so that a chart's data is also a table people can read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sim.foundation.text import value_text
from sim.inference.clinics import by_clinic as clinics_of
from sim.inference.grades import midranks
from sim.inference.hospitals import over_clinics
from sim.inference.scores import scored
from sim.methods.labels import method_label
from sim.report.adversaries import ADVERSARIES
from sim.report.held_out import HeldOut
from sim.report.spoken import spoken
from sim.report.summary import adversaries_in, summarise, swept_keys
from sim.results.columns import NOISE_KEYS

Names: TypeAlias = dict[str, str]
"""By series, its name: its own, or one for all that are equal."""
_ROUNDS: Final = 31
"""More rounds than this are thinned, evenly and with the first and the last."""

_CLINICS: Final = 20
"""Of more clinics than this, those with the lowest mean are drawn."""

_GROUP: Final = ["series", "level"]
Floats = NDArray[np.float64]
_POINTS: Final = 101
_BINS: Final = 10
_FEWEST: Final = 50
"""Records below which a calibration curve would be noise."""
MEAN, ANOTHER = "mean of all clinics", "another clinic (prediction)"


def equals(ok: pd.DataFrame, columns: Sequence[str]) -> Names:
    """Name series that have the same values in every run, bit for bit, together: "FedAvg = SplitFed V1, vanilla".

    Where all cuts and settings of a method are equal they are not named.
    """
    labels = ok["strategy"].map(method_label)
    label_of = dict(zip(ok["series"], labels, strict=True))
    series_of: dict[str, set[str]] = {}
    for series, label in zip(ok["series"], labels, strict=True):
        series_of.setdefault(label, set()).add(series)
    level, seed = ok["level"].cat.codes.to_numpy(), ok["seed"].to_numpy()
    values = np.column_stack([level, seed, *(ok[column].to_numpy(float) for column in columns)])
    place, every = pd.factorize(ok["series"])
    order = np.lexsort((seed, level))
    values, place = values[order], place[order]
    found: dict[bytes, list[str]] = {}
    for code, series in enumerate(every):
        found.setdefault(values[place == code].tobytes(), []).append(str(series))
    names: Names = {}
    for alike in found.values():
        whole = [label for label, own in series_of.items() if own <= set(alike)]
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


def noise_key(ok: pd.DataFrame) -> str | None:
    """Return the swept key that adds more or less noise, None where there is none."""
    return next((key for key in NOISE_KEYS if key in swept_keys(ok)), None)


def with_levels(ok: pd.DataFrame) -> pd.DataFrame:
    """Add the column `level`, an ordered category: "ε = 3", "no DP", "noise 0.8", or "as set" where none was swept."""
    key = noise_key(ok)
    if key is None:
        return ok.assign(level=pd.Categorical(["as set"] * len(ok)))
    texts = {value: _level(key, float(value)) for value in sorted(ok[key].unique())}
    return ok.assign(level=pd.Categorical(ok[key].map(texts), categories=list(texts.values()), ordered=True))


def _level(key: str, value: float) -> str:
    if key == "privacy.epsilon":
        return "no DP" if math.isinf(value) else f"ε = {value_text(value)}"
    return f"noise {value_text(value)}"


def told_adversaries(ok: pd.DataFrame) -> dict[str, str]:
    """Name the adversaries whose epsilons tell runs apart, by their columns; those with the same epsilons together.

    None where nothing is private: an epsilon is infinite for each, or 0 where nothing is seen.
    """
    columns: dict[bytes, list[str]] = {}
    names = adversaries_in(ok)
    for column in names:
        epsilons = ok[column].to_numpy(float)
        if len(np.unique(epsilons)) > 1 and (np.isfinite(epsilons) & (epsilons > 0)).any():
            columns.setdefault(epsilons.tobytes(), []).append(column)
    return {
        alike[0]: " and ".join([names[alike[0]], *(names[column].lower() for column in alike[1:])])
        for alike in columns.values()
    }


def trade_offs(
    ok: pd.DataFrame, adversaries: Mapping[str, str] = ADVERSARIES, held_out: HeldOut | None = None
) -> pd.DataFrame:
    """Compute what each method scores and what it costs, once for each score and adversary.

    ``series, level, score, adversary, n, mean, lower, upper, epsilon, place, joined, seconds, bytes, front``. `epsilon`
    is the largest over seeds; `place` is where it stands on the axis (:func:`axis_ends`); `joined` says whether the
    series changes its place; `front` whether no other method and level is at least as good in score, time, traffic and
    this adversary's epsilon and better in one of them, by the means.
    """
    costs = ok.assign(bytes=ok["bytes_up"] + ok["bytes_down"]).groupby(_GROUP, sort=False, observed=True)
    spent = costs.agg(seconds=("sim_seconds", "mean"), bytes=("bytes", "mean")).reset_index()
    largest = largest_epsilons(ok)
    at = {
        adversary: largest[[*_GROUP, epsilon]].rename(columns={epsilon: "epsilon"}).dropna(subset="epsilon")
        for epsilon, adversary in adversaries.items()
    }
    parts = []
    words = spoken(ok)
    for score, column in words.scores.items():
        means = with_bounds(summarise(ok, _GROUP, column, held_out), words.least).dropna(subset="mean")
        means = means.merge(spent, on=_GROUP)
        for adversary, epsilons in at.items():
            table = means.merge(epsilons, on=_GROUP)
            parts.append(table.assign(score=score, adversary=adversary, front=_front(table)))
    table = pd.concat(parts, ignore_index=True)
    table["place"] = _places(table["epsilon"], table["series"], axis_ends(largest))
    apart = table.groupby(["series", "score", "adversary"], observed=True)["epsilon"].transform("nunique") > 1
    return table.assign(joined=apart)


def by_privacy(ok: pd.DataFrame, points: pd.DataFrame, names: Mapping[str, Names]) -> pd.DataFrame:
    """Return the points of :func:`trade_offs` with one of the series that have the same scores and epsilons.

    Parameters
    ----------
    names : mapping of str to Names
        By adversary, those of the series.
    """
    ends = axis_ends(largest_epsilons(ok))
    parts = [together(points[points["adversary"] == adversary], own) for adversary, own in names.items()]
    return pd.concat([own.assign(place=_places(own["epsilon"], own["series"], ends)) for own in parts])


def _front(table: pd.DataFrame) -> list[bool]:
    """Say of each row whether no other dominates it."""
    costs = np.column_stack([-table["mean"], table["seconds"], table["bytes"], table["epsilon"]])
    no_worse = (costs[:, None] <= costs[None]).all(axis=2)
    better = (costs[:, None] < costs[None]).any(axis=2)
    dominated: list[bool] = np.any(no_worse & better, axis=0).tolist()
    return [not row for row in dominated]


def largest_epsilons(ok: pd.DataFrame) -> pd.DataFrame:
    """Return each adversary's largest epsilon over seeds, by series and level."""
    return ok.groupby(_GROUP, sort=False, observed=True)[list(adversaries_in(ok))].max().reset_index()


def axis_ends(largest: pd.DataFrame) -> tuple[float, float, float]:
    """Return where an epsilon of 0 and an infinite one stand on the axis, and how far apart levels are.

    In between, an epsilon stands at its decimal logarithm.
    """
    epsilons = largest[list(adversaries_in(largest))].to_numpy(float)
    logs = np.unique(np.log10(epsilons[np.isfinite(epsilons) & (epsilons > 0)]).round(1))
    gap = float(np.clip(np.diff(logs).min(), 0.1, 0.5)) if len(logs) > 1 else 0.3
    low, high = (float(logs.min()), float(logs.max())) if len(logs) else (0.0, 0.0)
    return low - 1.5 * gap, high + 1.5 * gap, gap


def _places(epsilons: pd.Series[float], series: pd.Series[str], ends: tuple[float, float, float]) -> Floats:
    """Return where epsilons stand on the axis, the series side by side around it."""
    zero, infinite, gap = ends
    values = epsilons.to_numpy(float)
    with np.errstate(divide="ignore"):
        logs = np.log10(values)
    place = np.where(values == 0, zero, np.where(np.isinf(values), infinite, logs))
    position, names = pd.factorize(series)
    width = min(0.7, 0.12 * len(names)) * gap
    return np.asarray(place + width * ((position + 0.5) / max(len(names), 1) - 0.5), dtype=np.float64)


def learning(ok: pd.DataFrame, rounds: pd.DataFrame) -> pd.DataFrame:
    """Compute learning curves: ``series, level, score, round, n, mean, lower, upper``.

    Parameters
    ----------
    rounds : DataFrame
        Scores after each round, with a column `run_id`.
    """
    kept = {}
    for last, group in rounds.groupby(rounds.groupby("run_id")["round"].transform("max")):
        kept[last] = group[group["round"].isin(np.linspace(0, float(last), _ROUNDS).round())]
    joined = pd.concat(kept.values()).drop(columns="status", errors="ignore")
    joined = joined.merge(ok[["run_id", *_GROUP, "status", "seed"]])
    by = [*_GROUP, "round"]
    # a seed's runs that hold clinics out in turn are one repetition
    words = spoken(ok)
    over_folds = {column: "min" if column == words.worst else "mean" for column in words.scores.values()}
    joined = joined.groupby([*by, "status", "seed"], observed=True, sort=False, as_index=False).agg(over_folds)
    parts = [
        with_bounds(summarise(joined, by, column), words.least).assign(score=score)
        for score, column in words.scores.items()
    ]
    return pd.concat(parts, ignore_index=True).dropna(subset="mean")


def by_clinic(ok: pd.DataFrame, clinics: pd.DataFrame, held_out: HeldOut | None = None) -> pd.DataFrame:
    """Compute each clinic's scores: ``series, level, score, clinic, n, mean, lower, upper``.

    Clinics come with the lowest mean of the first score first; of many, only the lowest are kept. Intervals are over
    the clinic's patients and seeds where predictions are known, else over seeds.
    """
    joined = clinics.rename(columns={"name": "clinic"}).merge(ok[["run_id", *_GROUP, "status"]])
    by = [*_GROUP, "clinic"]
    words = spoken(ok)
    scores = {score: column for score, column in words.clinic_scores.items() if column in joined}
    parts = []
    for score, column in scores.items():
        told = held_out is not None and column in scored(held_out.predictions.columns)
        found = _at_clinics(ok, column, held_out) if held_out and told else summarise(joined, by, column)
        parts.append(with_bounds(found, words.least).assign(score=score))
    table = pd.concat(parts, ignore_index=True).dropna(subset="mean")
    order = table[table["score"] == next(iter(scores))].groupby("clinic")["mean"].mean().sort_values().index.tolist()
    order += sorted(set(table["clinic"]) - set(order))
    table["clinic"] = pd.Categorical(table["clinic"], categories=order[:_CLINICS], ordered=True)
    return table.dropna(subset="clinic").sort_values("clinic", kind="stable")


def _at_clinics(ok: pd.DataFrame, column: str, held_out: HeldOut) -> pd.DataFrame:
    tables = []
    for level, own in ok.groupby("level", observed=True):
        models = own[["run_id", "series", "seed"]].rename(columns={"series": "method"})
        found = clinics_of(held_out.scored_runs, models, column, same_patients=held_out.same_patients).estimates()
        tables.append(found.rename(columns={"method": "series"}).assign(level=level))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(level=pd.Categorical(table["level"], categories=ok["level"].cat.categories, ordered=True))


def per_group(ok: pd.DataFrame, parts: pd.DataFrame, by: Sequence[str], amount: str) -> pd.DataFrame:
    """Average an amount over seeds, by series, level and the columns `by`."""
    joined = parts.merge(ok[["run_id", *_GROUP]])
    table = joined.groupby([*_GROUP, *by], sort=False, observed=True)[amount].mean().reset_index()
    return table[table[amount] > 0]


def with_bounds(table: pd.DataFrame, least: float = 0.0) -> pd.DataFrame:
    """Give intervals by their ends, cut to what a score (or with `least` -1 a difference of two) can be."""
    mean, half_width = table["mean"].to_numpy(float), table["half_width"].to_numpy(float)
    lower, upper = (np.clip(end, least, 1.0) for end in (mean - half_width, mean + half_width))
    return table.assign(lower=lower, upper=upper).drop(columns="half_width")


def elsewhere_points(away: pd.DataFrame, held_out: HeldOut) -> pd.DataFrame:
    """Compute the forest plot: ``series, level, clinic, kind, n, mean, lower, upper``.

    `kind` is "clinic", with 95 % intervals over its patients and seeds, and below, from five clinics on, "mean" with
    its interval over clinics (random effects) and "another" with its prediction interval; `n` seeds, or clinics.

    Parameters
    ----------
    away : DataFrame
        Runs that hold whole clinics out.
    """
    parts, words = [], spoken(away)
    for level, own in away.groupby("level", observed=True, sort=False):
        models = own[["run_id", "series", "seed"]].rename(columns={"series": "method"})
        at_clinics = clinics_of(held_out.scored_runs, models, words.within, same_patients=held_out.same_patients)
        over = over_clinics(at_clinics)[0].dropna(subset="half_width")
        mean = over.assign(clinic=MEAN, kind="mean")
        another = over.assign(clinic=ANOTHER, kind="another", half_width=over["predicted"])
        every = pd.concat([at_clinics.estimates().assign(kind="clinic"), mean, another], ignore_index=True)
        every = every.drop(columns="predicted", errors="ignore").rename(columns={"method": "series"})
        parts.append(with_bounds(every, words.least).assign(level=level))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def group_points(ok: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Compute what is drawn: ``series, level, column, patients, records, n, mean, lower, upper``.

    `patients` names a group; intervals are over seeds. Groups that cannot be scored are left out.

    Parameters
    ----------
    groups : DataFrame
        ``groups.parquet`` of all runs, with a column `run_id`.
    """
    named = groups.rename(columns={"group": "column", "level": "patients"})
    joined = named.merge(ok[["run_id", "series", "level", "status"]], on="run_id")
    by, words = ["series", "level", "column", "patients"], spoken(groups)
    table = with_bounds(summarise(joined, by, words.within), words.least).dropna(subset="mean")
    records = joined.groupby(by, observed=True)["records"].mean().rename("records").reset_index()
    table = table.merge(records, on=by)
    return table.assign(patients=table["column"] + ": " + table["patients"])


def roc(ok: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute ROC curves within clinics: ``series, level, false_positive_rate, sensitivity``.

    A false-positive rate is that among the records of the same clinic and run (the covariate-adjusted ROC curve of
    Janes & Pepe, Biometrika 2009); a case weighs as much as it has pairs, so that the area is the within-clinic AUC.
    Empty where the classes are not two.
    """
    grid = np.linspace(0.0, 1.0, _POINTS)
    parts = []
    for key, own in _groups(ok, predictions):
        placed, weight = placements(own)
        if not len(placed):
            continue
        order = np.argsort(placed, kind="stable")
        reached = np.concatenate([[0.0], np.cumsum(weight[order])]) / weight.sum()
        share = reached[np.searchsorted(placed[order], grid, side="right")]
        parts.append(pd.DataFrame({**key, "false_positive_rate": grid, "sensitivity": share}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def placements(predictions: pd.DataFrame) -> tuple[Floats, Floats]:
    """Return for each case the share of its clinic's controls in its run that score higher, ties by half, and weights.

    The weight is the number of its clinic's controls; cases without any are left out.
    """
    run, clinic = (pd.factorize(predictions[column])[0].astype(np.int64) for column in ("run_id", "clinic"))
    within = run * (int(clinic.max(initial=-1)) + 1) + clinic
    score, case = predictions["probability_1"].to_numpy(float), predictions["label"].to_numpy() == 1
    controls = np.bincount(within, ~case, minlength=1)[within].astype(float)
    above = controls - np.subtract(midranks(score, within), midranks(score, within * 2 + case))
    kept = case & (controls > 0)
    return above[kept] / controls[kept], controls[kept]


def calibration(ok: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Compute calibration curves: ``series, level, predicted, observed, records``, a row a tenth of the records."""
    parts = []
    for key, own in _groups(ok, predictions):
        if len(own) < _FEWEST:
            continue
        score, case = own["probability_1"].to_numpy(float), own["label"].to_numpy() == 1
        tenths = np.array_split(np.argsort(score, kind="stable"), _BINS)
        means = [(score[tenth].mean(), case[tenth].mean(), len(tenth)) for tenth in tenths]
        parts.append(pd.DataFrame(means, columns=["predicted", "observed", "records"]).assign(**key))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _groups(ok: pd.DataFrame, predictions: pd.DataFrame) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    if "probability_1" not in predictions or "probability_2" in predictions:
        return
    place = ok[["run_id", "series", "level"]].assign(level=ok["level"].astype(str))
    joined = predictions.assign(run_id=predictions["run_id"].astype(str)).merge(place, on="run_id")
    for (series, level), own in joined.groupby(["series", "level"], sort=False):
        yield {"series": series, "level": level}, own
