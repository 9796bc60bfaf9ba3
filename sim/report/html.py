"""The report: one HTML file that needs no network, no script and no other file."""

import html
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sim.report.figures import NO_DP, curve_table, describe_curves, target_order, write_figures
from sim.report.summary import ADVERSARIES, NOISE_KEYS, method_label, successful_runs, value_text
from sim.report.table import CAPTION, epsilon_text, results_frame, score_text

# What the model user, another clinic and the server see, by cut or, for strategies without one, by strategy.
_FEDERATED = ("the final model", "the shared model of every round", "every clinic's model updates")
_VIEWS = {
    "centralised": ("the final model", "the final model", "every record, because all records are pooled there"),
    "local": ("the model of one clinic", "nothing", "nothing"),
    "vanilla": (
        "the final model",
        "the shared head of every round",
        "smashed data (the activations of every record at the cut) without noise, labels and head updates",
    ),
    "u-shaped": (
        "the final model",
        "the shared head and tail of every round",
        "smashed data (the activations of every record at the cut) and tail gradients without noise, and head updates",
    ),
}


def write_report(runs: pd.DataFrame, study_folder: Path, context: dict[str, Any]) -> Path:
    """Write the figures of a study, and its report with the figure inlined.

    Parameters
    ----------
    runs : pandas.DataFrame
        One row a run, with the columns of `runs.parquet`; a column `error` is shown for runs that failed.
    study_folder : pathlib.Path
        Folder of the study; the figures go to `figures` in it.
    context : dict
        What the report says about where the runs come from; every key may be missing: `study` (name), `scenario`
        (dict), `versions` (dict), `data_card` (text), `commands` (list of str).

    Returns
    -------
    pathlib.Path
        The file `report.html` in `study_folder`.
    """
    figures = write_figures(runs, study_folder / "figures")
    figure = next((path.read_text(encoding="utf-8") for path in figures if path.suffix == ".svg"), "")
    curves = curve_table(runs)
    description = html.escape(describe_curves(curves))
    results = results_frame(runs)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.j2").render(
        study=context.get("study") or ", ".join(runs["study"].unique()),
        sentences=_sentences(runs, curves),
        figure=figure.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1),
        results=results,
        caption=CAPTION,
        privacy=_privacy_rows(runs),
        guarantee=_guarantee(runs),
        settings=_flat(context.get("scenario", {})),
        versions=context.get("versions", {}),
        data_card=context.get("data_card", ""),
        commands=context.get("commands", []),
        failed=_failed_rows(runs),
    )
    study_folder.mkdir(parents=True, exist_ok=True)
    path = study_folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def _sentences(runs: pd.DataFrame, curves: pd.DataFrame) -> list[str]:
    """Say in plain words what the study found."""
    sentences = [f"{(runs['status'] == 'ok').sum()} of {len(runs)} runs succeeded."]
    auc = curves[curves["metric"] == "auc"]
    free = auc[auc["target"] == NO_DP]
    if free.empty:
        sentences += [f"At ε = {target}, {_best(auc[auc['target'] == target])}." for target in target_order(auc)]
        if not auc.empty:
            sentences.append("The study has no run without DP, so what DP costs cannot be read from it.")
    else:
        sentences.append(f"Without DP, {_best(free)}.")
        apart = free[free["strategy"] != "centralised"]
        if 0 < len(apart) < len(free):
            sentences.append(f"Among the methods that leave the records at the clinics, {_best(apart)}.")
        sentences += _costs(auc, free)
    return sentences + _unprotected(runs)


def _best(points: pd.DataFrame) -> str:
    """Name the series with the highest mean, and those that equal it."""
    top = points.sort_values("mean").iloc[-1]
    names = points.loc[(points["mean"] - top["mean"]).abs() < 1e-9, "series"]
    verb = "has" if len(names) == 1 else "share"
    seeds = "one seed" if top["n"] == 1 else f"mean of {top['n']} seeds and 95 % confidence interval"
    return f"{_list(names)} {verb} the highest AUC: {score_text(top['mean'], top['half_width'])} ({seeds})"


def _costs(auc: pd.DataFrame, free: pd.DataFrame) -> list[str]:
    """Say for each epsilon how much AUC the methods lose to DP on average."""
    private = auc[auc["target"] != NO_DP].merge(free[["series", "mean"]], on="series", suffixes=("", "_free"))
    private["loss"] = private["mean_free"] - private["mean"]
    sentences = []
    for target in target_order(private):
        points = private[private["target"] == target].sort_values("loss")
        low, high = points.iloc[0], points.iloc[-1]
        text = f"At ε = {target}, DP costs {score_text(low['loss'])} of AUC ({low['series']})"
        if len(points) > 1:
            text = f"At ε = {target}, DP costs between {score_text(low['loss'])} of AUC ({low['series']}) and "
            text += f"{score_text(high['loss'])} ({high['series']})"
        sentences.append(f"{text}{'; a minus sign is a gain' if '-' in score_text(low['loss']) else ''}.")
    return sentences


def _unprotected(runs: pd.DataFrame) -> list[str]:
    """Say which adversaries have an infinite epsilon, and why."""
    ok = successful_runs(runs)
    noised = ok["mechanism"] != "none"
    sentences = []
    for position, (column, adversary) in enumerate(ADVERSARIES.items()):
        exposed = ok[noised & (ok[column] == float("inf"))]
        seen = exposed.assign(view=[_views(row)[position] for _, row in exposed.iterrows()])
        for view, group in seen.groupby("view", sort=False):
            names = _list(group["method"].drop_duplicates())
            sentences.append(f"Even with DP, ε is infinite for the {adversary.lower()} in {names}: it sees {view}.")
    if not noised.all():
        sentences.append("Without DP nothing is noised, so ε is infinite for whoever sees anything of the training.")
    return sentences


def _privacy_rows(runs: pd.DataFrame) -> dict[str, Any]:
    """Lay out epsilon by series and adversary (rows) and by the amount of noise (columns)."""
    ok = successful_runs(runs)
    key = next((key for key in NOISE_KEYS if key in ok), None)
    amounts = sorted(ok[key].unique()) if key else []
    headings = {"privacy.epsilon": "ε at target {}", "privacy.noise-multiplier": "ε at noise {}"}
    columns = [headings[key].format(value_text(amount)) for amount in amounts] if key else ["ε"]
    methods = []
    for series, group in ok.groupby("series", sort=False):
        parts = [group[group[key] == amount] for amount in amounts] if key else [group]
        rows = [
            (adversary, view, [epsilon_text(part[column].max()) for part in parts])
            for (column, adversary), view in zip(ADVERSARIES.items(), _views(group.iloc[0]), strict=True)
        ]
        methods.append((series, rows))
    return {"columns": columns, "methods": methods}


def _guarantee(runs: pd.DataFrame) -> str:
    """State the unit, delta and mechanism the epsilons refer to."""
    private = runs[(runs["status"] == "ok") & (runs["mechanism"] != "none")]
    if private.empty:
        return "No run of this study used differential privacy."
    mechanisms, units = _list(private["mechanism"].unique()), _list(private["unit"].unique())
    deltas = _list([f"{delta:g}" for delta in sorted(private["delta"].unique())])
    return f"Mechanism: {mechanisms}. Protected unit: one {units}. δ = {deltas}."


def _failed_rows(runs: pd.DataFrame) -> list[list[str]]:
    """List the runs that did not succeed: id, method, seed, swept values, status, error."""
    failed = runs[runs["status"] != "ok"]
    swept = [name for name in failed.columns if "." in name]
    return [
        [
            str(row["run_id"]),
            method_label(row["strategy"], row["cut"]),
            str(row["seed"]),
            ", ".join(f"{name} {value_text(row[name])}" for name in swept),
            row["status"],
            row["error"] if isinstance(row.get("error"), str) else "",
        ]
        for _, row in failed.iterrows()
    ]


def _views(run: "pd.Series[Any]") -> tuple[str, str, str]:
    """Say what each adversary of a run sees."""
    return _VIEWS.get(run["cut"]) or _VIEWS.get(run["strategy"], _FEDERATED)


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Spread nested settings into pairs of a dotted name and a value."""
    if isinstance(value, dict):
        return [pair for key, part in value.items() for pair in _flat(part, f"{name}.{key}" if name else str(key))]
    if isinstance(value, (list, tuple)) and any(isinstance(part, dict) for part in value):
        return [pair for index, part in enumerate(value, 1) for pair in _flat(part, f"{name}[{index}]")]
    if isinstance(value, (list, tuple)):
        return [(name, ", ".join(map(value_text, value)))]
    return [(name, value_text(value))]


def _list(names: Iterable[str]) -> str:
    """Join names into a list for a sentence; semicolons, because names hold commas."""
    *first, last = names
    if len(first) < 2:
        return " and ".join([*first, last])
    return f"{'; '.join(first)}; and {last}"
