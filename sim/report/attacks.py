"""What attacks measured: success against score, one adversary at a time, and measured against promised epsilon.

The attacks of every run (:mod:`sim.attacks.membership`, :mod:`sim.attacks.reconstruction`) stand beside those that the
scenario names, so that the weak ones are seen to be weak.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np
import pandas as pd

from sim.foundation.text import epsilon_text, score_text
from sim.report.figure import Figure
from sim.report.look import GREY, Sheet, Spec, dots, field, layer, numbers
from sim.report.study import StudyResults
from sim.report.summary import WHO, title
from sim.results.attack_log import AUDIT
from sim.results.attacks import COLUMNS

OF_EVERY_RUN: Final = {
    "membership_auc": ("membership", "model-user", "auc", 0.5),
    "smashed_reconstruction_r2": ("reconstruction", "server", "r2", 0.0),
}
"""Columns of ``runs.parquet`` with what the attacks of every run measure: attack, adversary, measure and chance."""
_NAMES: Final = {
    "membership": "loss threshold", "reconstruction": "ridge regression", "lira": "LiRA", "rmia": "RMIA",
    "fsha": "FSHA", "unsplit": "UnSplit",
}  # fmt: skip
_UNITS: Final = {"auc": "AUC", "r2": "R²", "ssim": "SSIM", "psnr": "PSNR", "tpr": "TPR", "epsilon": "ε"}
_AT_RATES: Final = {"fpr_0_001_tpr": "TPR at 0.1 % FPR", "fpr_0_01_tpr": "TPR at 1 % FPR"}
_HEIGHT: Final = 240
_NUMBERS: Final = ("value", "low", "high", "chance", "bound")
_HEADLINE: Final = (
    "fpr_0_01_tpr", "auc", "label_auc", "ssim", "correlation", "r2", "mix_correlation", "identified_share",
)  # fmt: skip
"""Of the measures of an attack, the first of these that it has is drawn."""


def measured(study: StudyResults) -> pd.DataFrame:
    """Return what each attack measured on each run: the columns of ``attacks.parquet``, of all clinics together."""
    runs = study.drawn
    floors = [
        runs[["run_id"]].assign(attack=attack, adversary=who, measure=measure, value=runs[column], chance=chance)
        for column, (attack, who, measure, chance) in OF_EVERY_RUN.items()
        if column in runs
    ]
    named = study.attacks[(study.attacks["clinic"] == "") & study.attacks["run_id"].isin(runs["run_id"])]
    table = pd.concat([*floors, *([named] if len(named) else [])], ignore_index=True) if floors else named
    table = table.reindex(columns=list(COLUMNS)).astype(dict.fromkeys(_NUMBERS, "float64"))
    return table.dropna(subset="value")


def attack_points(study: StudyResults, score: str) -> pd.DataFrame:
    """Return a row for each series, level and attack by its headline measure: means over seeds.

    ``series level order adversary attack measure mean lower upper chance score n``. The interval is the attack's own,
    averaged over seeds; `score` is the mean of the column that is named.
    """
    table = measured(study)
    table = table[(table["attack"] != AUDIT) & table["measure"].isin(_HEADLINE)]
    rank = table["measure"].map(_HEADLINE.index)
    table = table[rank == rank.groupby([table["attack"], table["adversary"]]).transform("min")]
    ok = study.drawn[["run_id", "series", "level", score]]
    by = ["series", "level", "adversary", "attack", "measure"]
    means: pd.DataFrame = (
        table.merge(ok, on="run_id")
        .groupby(by, sort=False, observed=True)
        .agg(
            mean=("value", "mean"),
            lower=("low", "mean"),
            upper=("high", "mean"),
            chance=("chance", "mean"),
            score=(score, "mean"),
            n=("value", "size"),
        )
        .reset_index()
    )
    texts = {"attack": attack_name, "measure": measure_text, "adversary": _who(study).__getitem__}
    means = means.assign(
        order=means["level"].cat.codes, **{name: means[name].map(text) for name, text in texts.items()}
    )
    return means.dropna(subset=["mean", "score"])


def audit_points(study: StudyResults) -> pd.DataFrame:
    """Return a row for each series, level and adversary: the claimed epsilon, and the largest that was measured."""
    table = measured(study)
    table = table[(table["attack"] == AUDIT) & (table["measure"] == "epsilon") & np.isfinite(table["bound"])]
    joined: pd.DataFrame = table.merge(study.drawn[["run_id", "series", "level"]], on="run_id")
    by = ["series", "level", "adversary"]
    found: pd.DataFrame = joined.groupby(by, sort=False, observed=True).agg(
        claimed=("bound", "max"), measured=("value", "max")
    )
    table = found.reset_index()
    return table.assign(adversary=table["adversary"].map(_who(study)))


def attack_figures(study: StudyResults, score: str) -> tuple[list[Figure], dict[str, pd.DataFrame]]:
    """Return the figures of attacks and their tables; none of an adversary against whom nothing was tried.

    Methods that share a model do not share what is seen of its training, so that each is drawn.

    Parameters
    ----------
    score : str
        Column of the score that success is drawn against.
    """
    points = attack_points(study, score)
    figures, tables, told = [], {}, title(score, "region" if study.parties else "clinic")
    for who in _who(study).values():
        own = points[points["adversary"] == who]
        if len(own):
            figures.append(_success(who, own, f"{told[0].upper()}{told[1:]}"))
            tables[figures[-1].table] = own
    if len(audited := audit_points(study)):
        tables["audit"] = audited
        figures.append(_audit(audited))
    return figures, tables


def _success(adversary: str, own: pd.DataFrame, score: str) -> Figure:
    spans = "; ".join(
        f"{attack} {score_text(each['mean'].min())} to {score_text(each['mean'].max())} ({each['measure'].iloc[0]})"
        for attack, each in own.groupby("attack", sort=False)
    )
    name = f"attacks-{adversary.lower().replace(' ', '-')}"
    return Figure(
        name=name,
        title=f"What attacks by the {adversary.lower()} find",
        note="Each mark is a method at one level of privacy, joined along the levels: to the right the attack succeeds "
        "more, upwards the model is better. Dashed: guessing. Dotted: the most that is found without DP. "
        "An attack that fails proves no privacy.",
        description=f"Charts of score against the success of attacks by the {adversary.lower()}: {spans}.",
        panels=[
            partial(
                success_panel,
                table=name,
                attack=str(attack),
                measure=each["measure"].iloc[0],
                lines=_lines(each),
                score=score,
                intervals=bool(each["lower"].notna().any()),
            )
            for attack, each in own.groupby("attack", sort=False)
        ],
    )


def _lines(own: pd.DataFrame) -> dict[str, float]:
    """Return where guessing stands, and the most that is found without privacy, where both are known."""
    bare = own.loc[own["level"].astype(str).isin(["no DP"]), "mean"]
    found = {"guessing": own["chance"].mean(), "no privacy": bare.max() if len(bare) else np.nan}
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _audit(table: pd.DataFrame) -> Figure:
    words = "; ".join(
        f"{series}, {level}, {str(who).lower()}: at least {epsilon_text(found)} of a claimed {epsilon_text(claim)}"
        for series, level, who, claim, found in table[
            ["series", "level", "adversary", "claimed", "measured"]
        ].itertuples(index=False)
    )
    return Figure(
        name="audit",
        title="Promised and measured ε",
        note="What audits with canaries show at least (95 % lower bound), against the ε that is claimed. On the line "
        "the claim is used up; above it, it would be false. Of Gaussian noise the shape of the claimed trade-off curve "
        "is taken as known and its scale measured; attacks.parquet has bounds without that assumption.",
        description=f"A chart of audited against claimed epsilon. {words}.",
        panels=[
            partial(audit_panel, adversary=who, largest=float(table["claimed"].max()))
            for who in dict.fromkeys(table["adversary"])
        ],
    )


def _who(study: StudyResults) -> dict[str, str]:
    """Return the adversaries as people read them, by their names."""
    return {**WHO, "peer-clinic": "Peer party"} if study.parties else {**WHO}


def attack_name(attack: str) -> str:
    """Return an attack as people read it."""
    return _NAMES.get(attack, attack.rpartition(":")[0] or attack).replace("-", " ")


def measure_text(measure: str) -> str:
    """Return a measure as people read it: "TPR at 1 % FPR", "label AUC"."""
    for name, told in _AT_RATES.items():
        if measure.endswith(name):
            return f"{measure.removesuffix(name).replace('_', ' ')}{told}"
    words = measure.split("_")
    if words[-1] == "error":
        return f"{' '.join(words)} (smaller: more found)"
    return " ".join([*words[:-1], _UNITS.get(words[-1], words[-1])])


def attack_tables(study: StudyResults) -> list[tuple[str, pd.DataFrame]]:
    """Lay out, by adversary, what its attacks measured: means over seeds as text, a row a method and level."""
    table = measured(study)
    table = table[~table["measure"].str.endswith("records")]
    joined = table.merge(study.drawn[["run_id", "series", "level"]], on="run_id")
    joined["told"] = [
        f"{attack_name(attack)}: {measure_text(measure)}"
        for attack, measure in zip(joined["attack"], joined["measure"], strict=True)
    ]
    found = []
    for who, name in _who(study).items():
        own = joined[joined["adversary"] == who]
        if len(own):
            means = own.groupby(["series", "level", "told"], sort=False, observed=True)["value"].mean()
            frame = means.unstack(sort=False).map(_number).reset_index()  # noqa: PD010 (nothing is left to aggregate)
            found.append((name, frame.rename(columns={"series": "Method", "level": "Privacy"})))
    return found


def attack_words(study: StudyResults, score: str) -> list[str]:
    """Say of each adversary and attack where it finds most, and what guessing gives."""
    points = attack_points(study, score)
    said = []
    for (who, attack), own in points.groupby(["adversary", "attack"], sort=False):
        best = own.sort_values("mean", kind="stable").to_dict("records")[-1]
        level = "" if best["level"] == "as set" else f" at {best['level']}"
        spread = "" if np.isnan(best["lower"]) else f" ({_number(best['lower'])} to {_number(best['upper'])})"
        guess = "" if np.isnan(best["chance"]) else f"; guessing gives {_number(best['chance'])}"
        of = f", the most of {len(own)} settings" if len(own) > 1 else ""
        said.append(
            f"{who}, {attack}: {best['measure']} {_number(best['mean'])}{spread} for {best['series']}{level}{of}"
            f"{guess}."
        )
    if any("the most of" in each for each in said):
        said.append("Each interval is of that setting by itself, and does not cover that it was picked as the most.")
    return said


def _number(value: float) -> str:
    return score_text(value) if abs(value) <= 1 or np.isnan(value) else f"{value:.3g}"


def success_panel(
    sheet: Sheet, table: str, attack: str, measure: str, lines: Mapping[str, float], *, score: str, intervals: bool
) -> Spec:
    """Draw the score against an attack's success, a mark a series and level, joined along the levels.

    Attack, measure and score are in words; `lines` are values of the measure to mark: what guessing gives, and the most
    without privacy.
    """
    x = field("mean:Q", title=measure, scale={"zero": False, "nice": True}, axis={"tickCount": 5})
    y = field("score:Q", title=score, scale={"zero": False, "nice": True}, axis={"tickCount": 6})
    at = {"x": field("at:Q"), "tooltip": [field("name:N"), *numbers("at")]}
    marked = [
        {
            "data": {"values": [{"at": value, "name": name}]},
            **layer("rule", at, color=GREY, strokeDash=[6, 3] if name == "guessing" else [2, 3]),
        }
        for name, value in lines.items()
    ]
    own = f"datum.attack === {json.dumps(attack)}"
    line = layer("line", {"x": x, "y": y, "order": field("order:Q"), **sheet.line(0.5, 0.05)}, own, strokeWidth=1.2)
    spread = {"x": {**x, "field": "lower"}, "x2": {"field": "upper"}, "y": y}
    faded = {"color": sheet.series("color"), "strokeOpacity": sheet.shown(0.5, 0.04)}
    bars = layer("rule", spread | faded, own, "isValid(datum.lower) && isValid(datum.upper)", strokeWidth=1.1)
    marks = _marks(sheet, own, x, y, numbers("mean", "lower", "upper", "score"))
    return sheet.chart(table, json.dumps(attack), _HEIGHT, layer=[*marked, line, *([bars] if intervals else []), marks])


def audit_panel(sheet: Sheet, adversary: str, largest: float) -> Spec:
    """Draw the audited epsilon of one adversary against the claimed one, up to the largest claim.

    On the line the claim is used up.
    """
    scale = {"type": "symlog", "constant": 1, "zero": True, "nice": True}
    x = field("claimed:Q", title=f"Claimed ε of the {adversary.lower()}", scale=scale, axis={"tickCount": 5})
    y = field("measured:Q", title="Audited ε, at least", scale=scale, axis={"tickCount": 5})
    line = {
        "data": {"values": [{"claimed": claim, "measured": claim} for claim in (0.0, largest)]},
        **layer("line", {"x": x, "y": y}, color=GREY, strokeDash=[4, 3]),
    }
    own = f"datum.adversary === {json.dumps(adversary)}"
    marks = _marks(sheet, own, x, y, numbers("claimed", "measured", form=".3g"))
    return sheet.chart("audit", json.dumps(adversary), _HEIGHT, layer=[line, marks])


def _marks(sheet: Sheet, own: str, x: Spec, y: Spec, said: Sequence[Spec]) -> Spec:
    """Draw a mark a row, which says its series, its level and some numbers."""
    tooltip = [field("series:N"), field("level:N"), *said]
    return dots(60, {"x": x, "y": y, **sheet.mark(), "tooltip": tooltip}, own)
