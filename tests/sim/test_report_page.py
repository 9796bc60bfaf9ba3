"""The page shows what the runs say: fronts by hand, the summary's means, its own scripts only."""

import base64
import hashlib
import html as html_module
import json
import re
from dataclasses import replace
from math import inf, nan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from altair import Root
from jsonschema import ValidationError
from report_studies import make_runs, make_study

from sim.report.gallery import gallery
from sim.report.html import write_report
from sim.report.look import looks
from sim.report.points import by_clinic, learning, trade_offs, with_levels
from sim.report.privacy import method_privacy, outside
from sim.report.resources import demand_frame
from sim.report.summary import successful_runs

pytestmark = pytest.mark.usefixtures("no_vega")


def test_page_runs_its_own_scripts_only(tmp_path: Path) -> None:
    text = write_report(make_study(make_runs()), tmp_path).read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert len(hashes) == 2
    allowed = html_module.unescape(policy[1])
    assert "default-src 'none'" in allowed
    assert f"script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}';" in allowed


def front_by_hand(rows: list[dict[str, Any]]) -> list[bool]:
    def dominates(one: dict[str, Any], other: dict[str, Any]) -> bool:
        pairs = [(-one["auc"], -other["auc"])] + [(one[key], other[key]) for key in ("seconds", "bytes", "epsilon")]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    return [not any(dominates(other, row) for other in rows) for row in rows]


def test_pareto_front_by_hand() -> None:
    points = [  # AUC, seconds, bytes, epsilon of the server
        (0.90, 10.0, 100, inf),
        (0.90, 10.0, 100, inf),  # its equal: neither dominates
        (0.90, 11.0, 100, inf),  # slower: off
        (0.80, 5.0, 200, inf),  # faster
        (0.70, 12.0, 300, 1.0),  # more private
        (0.69, 12.0, 300, 1.0),  # worse: off
    ]
    table = pd.DataFrame(points, columns=["auc", "seconds", "bytes", "epsilon"])
    runs = make_runs(
        methods=[(f"mine.M{number}", "") for number in range(6)],
        epsilons=[inf],
        seeds=[0],
        within_clinic_auc=table["auc"],
    )
    runs = runs.assign(
        sim_seconds=table["seconds"], bytes_up=table["bytes"], bytes_down=0, epsilon_server=table["epsilon"]
    )
    drawn = trade_offs(with_levels(successful_runs(runs)))
    drawn = drawn[(drawn["score"] == "Within-clinic AUC") & (drawn["adversary"] == "Server")].sort_values("series")
    assert drawn["front"].tolist() == [True, True, False, True, True, False]
    assert drawn["front"].tolist() == front_by_hand(table.to_dict("records"))


def test_trade_offs_are_the_summary() -> None:
    runs = make_runs()
    drawn = (
        trade_offs(with_levels(successful_runs(runs))).set_index(["score", "adversary", "series", "level"]).sort_index()
    )
    assert len(drawn) == 5 * 3 * 5 * 4
    row = drawn.loc["Within-clinic AUC", "Server", "SplitFed V1, U-shaped", "ε = 3"]
    assert (row["mean"], row["lower"], row["upper"]) == pytest.approx((0.82, 0.82 - 0.0496828, 0.82 + 0.0496828))
    assert (row["epsilon"], row["seconds"], row["bytes"]) == (inf, 192.0, 3_422_400)
    at = drawn.loc["Within-clinic AUC", "Model user"]["place"].groupby("level", observed=True)
    assert (at.max() < at.min().shift(-1).fillna(inf)).all()  # levels stay apart, from private to infinite
    assert (
        drawn.loc["Within-clinic AUC", "Peer clinic", "Local"]["place"].max() < at.min().min()
    )  # 0 stands left of all


def test_learning_and_clinics_are_means_over_seeds() -> None:
    study = make_study(make_runs())
    ok = with_levels(successful_runs(study.runs))
    curves = learning(ok, study.rounds).set_index(["series", "level", "score", "round"]).sort_index()
    assert curves.loc[("FedAvg", "ε = 1", "Within-clinic AUC", 1), ["mean", "n"]].tolist() == pytest.approx([0.79, 3])
    own = by_clinic(ok, study.clinics)
    assert own["clinic"].drop_duplicates().tolist() == ["south", "north"]  # the lowest first
    row = own.set_index(["series", "level", "score", "clinic"]).sort_index().loc[("FedAvg", "ε = 1", "AUC", "south")]
    assert (row["mean"], row["upper"]) == pytest.approx((0.69, 0.69 + 0.0496828))


def test_long_learning_curves_are_thinned_and_keep_both_ends() -> None:
    runs = make_runs(methods=[("fedavg", "")], epsilons=[inf], seeds=[0])
    rounds = pd.DataFrame(
        {"run_id": "run0", "round": range(501), "auc": 0.5, "within_clinic_auc": 0.5, "balanced_accuracy": 0.5}
    )
    rounds = rounds.assign(accuracy=0.5, worst_clinic_auc=nan)
    curves = learning(with_levels(successful_runs(runs)), rounds)
    kept = curves.loc[curves["score"] == "Pooled AUC", "round"]
    assert (len(kept), kept.min(), kept.max()) == (31, 0, 500)


def test_no_two_series_look_alike() -> None:
    runs = make_runs(methods=[(f"mine.M{number}", cut) for number in range(10) for cut in ("vanilla", "u-shaped")])
    given = looks(successful_runs(runs))
    assert len({(look.colour, look.shape) for look in given}) == len(given) == 20


def test_a_method_has_the_same_look_in_every_study() -> None:
    every = {look.series: look for look in looks(successful_runs(make_runs()))}
    assert len({look.colour for look in every.values()}) == 4
    for method in [("fedavg", ""), ("splitfed-v1", "u-shaped")]:
        [look] = looks(successful_runs(make_runs(methods=[method])))
        assert look == every[look.series]
    [mine] = looks(successful_runs(make_runs(methods=[("mine.FedMine", "")])))
    assert mine in looks(successful_runs(make_runs(methods=[("mine.FedMine", ""), ("fedavg", "")])))


def test_page_draws_the_data_it_embeds(tmp_path: Path) -> None:
    study = make_study(make_runs())
    text = write_report(study, tmp_path).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="report-data">(.*?)</script>', text, flags=re.DOTALL)
    assert found is not None
    content = json.loads(found[1])
    shown = gallery(study)
    choices = {"score": "Within-clinic AUC", "level": "ε = 3", "adversary": "Model user", "method": ""}
    assert content["state"] == choices | {"picked": [], "search": ""}
    for name, table in shown.tables.items():
        for column, values in content["tables"][name].items():
            want = table[column].tolist()
            if isinstance(values, dict):
                assert [values["words"][code] for code in values["codes"]] == want
            else:
                assert values == pytest.approx([None if value != value else value for value in want], rel=1e-4)
    for figure in content["figures"].values():
        assert "datasets" not in json.dumps(figure["panels"])


def test_every_specification_is_valid_vega_lite() -> None:
    shown = gallery(make_study(make_runs(seeds=[0, 1], epsilons=[3.0, inf])))
    specs = [spec for figure in shown.figures for spec in shown.page_specs(figure)]
    specs += [shown.paper_spec(figure, "heart") for figure in shown.figures]
    for spec in specs:
        Root.validate(spec)
    specs[-1]["concat"][0]["mark"] = "blot"
    with pytest.raises(ValidationError):
        Root.validate(specs[-1])


def test_privacy_by_method() -> None:
    study = make_study(make_runs())
    cut = next(method for method in method_privacy(study) if method.series == "SplitFed V1, vanilla")
    assert cut.rows == [
        ("Model user", "nothing", ["0.99", "2.97", "7.92", "∞"]),
        ("Peer clinic", "nothing", ["0.99", "2.97", "7.92", "∞"]),
        ("Server", "smashed data (not noised)", ["∞"] * 4),
    ]
    assert len(cut.bounds) == 3 * 4
    server = cut.bounds.iloc[2]
    assert (server["Privacy"], server["Adversary"], server["ε"]) == ("ε = 1", "server", "∞")
    assert server["Reason for no guarantee"] == "smashed rows leave without noise"
    assert cut.mechanisms["Privacy"].tolist() == ["ε = 1", "ε = 3", "ε = 8"]  # nothing is noised without DP
    assert cut.mechanisms["Noise"].unique().tolist() == ["1.5 to 2.5 (standard deviation over the sensitivity)"]


def test_what_is_outside_the_guarantee_of_some_methods_names_them() -> None:
    study = make_study(make_runs())
    for row in study.runs.itertuples():
        if row.strategy == "fedavg":
            extra = {"what": "labels", "marking": "dp", "note": "stay"}
            study.statements[row.run_id]["outside"].append(extra)
    assert outside(study) == [
        ("batch sizes", "public", "seen where rows cross"),
        ("labels", "DP", "stay (FedAvg)"),
    ]


def test_what_is_asked_of_a_clinic_is_its_mean_over_runs(tmp_path: Path) -> None:
    """Two seeds; north 1 and 3 GFLOP, south 40 and 60; energy known for north alone, and so not told."""
    study = make_study(make_runs(epsilons=(inf,), seeds=(0, 1), methods=[("fedavg", "")]))
    own = study.clinics.sort_values(["name", "run_id"], ignore_index=True)
    assert list(own["name"]) == ["north", "north", "south", "south"]
    asked = own.assign(
        flops=[1e9, 3e9, 40e9, 60e9],
        seconds=[59.0, 61.0, 60.0, 60.0],
        peak_bytes=[2e6, 2e6, 5e5, 7e5],
        joules=[1.0, 2.0, nan, nan],
    )
    study = replace(study, clinics=asked)
    expected = {"Method": "FedAvg", "FLOPs": "2 to 50 GFLOP", "Busy": "1 min", "Memory": "600 kB to 2 MB"}
    assert demand_frame(study).to_dict("records") == [expected]
    apart = asked.head(1).assign(name="region", flops=0.0, seconds=nan, peak_bytes=0.0, joules=nan)
    beside = replace(study, clinics=pd.concat([asked, apart]))  # nothing is asked of a region or a held-out clinic
    assert demand_frame(beside).to_dict("records") == [expected]
    study = replace(study, clinics=asked.assign(joules=[1.0, 2.0, 1500.0, 4500.0]))
    assert demand_frame(study)["Energy"].tolist() == ["1.5 J to 3 kJ"]
    assert "3 kJ" in write_report(study, tmp_path).read_text(encoding="utf-8")
