"""The report says what the runs say: hand-computed means and intervals, complete figures, escaped text."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from report_studies import METHODS, datasets, make_runs, make_study
from scipy import stats

from sim.report.figures import NO_DP, curve_table, privacy_accuracy_chart, reference_table, target_order
from sim.report.gallery import gallery, study_pictures
from sim.report.held_out import HeldOut
from sim.report.html import write_report
from sim.report.pictures import draw
from sim.report.points import equals, learning, members_of, together, with_levels
from sim.report.resources import worst_frame
from sim.report.summary import successful_runs, summarise
from sim.report.table import caption, console_table, results_frame
from sim.report.words import answers, what_was_compared

pytestmark = pytest.mark.usefixtures("no_vega")


class Page(HTMLParser):
    """Collects the tags (with attributes) and the text of an HTML file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def test_baselines_are_a_block_of_their_own(tmp_path: Path) -> None:
    methods = [*map(str, console_table(make_runs(epsilons=[inf])).columns[0].cells)]
    assert methods[2:] == ["SplitFed V1, U-shaped", "Baselines", "Centralised", "Local"]
    alone = make_runs(epsilons=[inf], methods=[("local", "")])
    assert [*map(str, console_table(alone).columns[0].cells)] == ["Local"]
    page = Page(write_report(make_study(make_runs()), tmp_path))
    assert page.text.split("Baselines")[1].strip().startswith("Centralised")
    assert page.text.count("Baselines") == 2  # once in the results, once in calibration and decisions


def test_chart_data_equals_the_summary() -> None:
    runs = make_runs()
    rows = [row for row in datasets(privacy_accuracy_chart(runs)) if "series" in row]
    drawn = {(row["metric"], row["series"], row["target"]): row for row in rows}
    assert len(rows) == len(drawn) == 2 * 5 * 4
    for metric in ("within_clinic_auc", "auc"):
        for _, want in summarise(runs, ["strategy", "cut", "privacy.epsilon"], metric).iterrows():
            target = NO_DP if want["privacy.epsilon"] == inf else f"{want['privacy.epsilon']:g}"
            row = drawn[metric, METHODS[want["strategy"], want["cut"]], target]
            bounds = [want["mean"] - want["half_width"], want["mean"], want["mean"] + want["half_width"]]
            assert [row["lower"], row["mean"], row["upper"]] == pytest.approx(bounds)


def test_axis_rises_to_infinity() -> None:
    text = json.dumps(privacy_accuracy_chart(make_runs(epsilons=[inf, 8.0, 1.0, 3.0])), ensure_ascii=False)
    assert f'"sort": ["1", "3", "8", "{NO_DP}"]' in text
    not_swept = make_runs().drop(columns="privacy.epsilon")
    assert target_order(curve_table(not_swept)) == ["0.99", "2.97", "7.92", NO_DP]


def test_reference_rules() -> None:
    runs = make_runs()
    levels = reference_table(curve_table(runs)).set_index("metric")["mean"].to_dict()
    assert levels == pytest.approx({"within_clinic_auc": 0.86, "auc": 0.87})
    labels = {row["label"] for row in datasets(privacy_accuracy_chart(runs)) if "label" in row}
    assert labels == {"centralised,\nno DP"}
    ambiguous = pd.concat([runs.assign(**{"train.rounds": rounds}) for rounds in (5, 30)])
    assert reference_table(curve_table(ambiguous)).empty


def test_figures_are_written(tmp_path: Path) -> None:
    png, svg = draw({"privacy_accuracy": privacy_accuracy_chart(make_runs())}, tmp_path)
    assert [png.name, svg.name] == ["privacy_accuracy.png", "privacy_accuracy.svg"]
    head = png.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    assert 1500 <= int.from_bytes(head[16:20], "big") <= 1700
    text = svg.read_text(encoding="utf-8")
    assert all(text.count(f">{name}</text>") == 1 for name in METHODS.values())  # one shared legend
    assert "Study heart. Points: mean of 3 seeds; bars: 95 % interval over seeds" in text


SMALL = {
    "one epsilon": make_runs(epsilons=[3.0]),
    "one method": make_runs(methods=[("fedavg", "")]),
    "one seed": make_runs(seeds=[0]),
    "one run": make_runs(epsilons=[inf], methods=[("local", "")], seeds=[0]),
    "missing scores": make_runs().assign(auc=lambda runs: runs["auc"].where(runs["strategy"] != "fedavg")),
    "no AUC at all": make_runs(auc=nan, within_clinic_auc=nan),
    "cut is missing": make_runs(methods=[("fedavg", ""), ("local", "")], cut=nan),
    "epsilon not swept": make_runs().drop(columns="privacy.epsilon"),
    "noise swept": make_runs().rename(columns={"privacy.epsilon": "privacy.noise-multiplier"}),
}


DRAWN = ("one method", "one run", "no AUC at all")


@pytest.mark.parametrize("name", SMALL)
def test_small_studies(name: str, tmp_path: Path) -> None:
    runs = SMALL[name]
    study = make_study(runs)
    page = Page(write_report(study, tmp_path))
    if name in DRAWN:
        draw(study_pictures(study, gallery(study)), tmp_path)
        assert (tmp_path / "privacy_accuracy.png").is_file() == (name != "no AUC at all")
    assert all(name in page.text for name in successful_runs(runs)["series"])
    assert "nan" not in page.text.lower()
    block = successful_runs(runs)["strategy"].isin(["fedavg"]).any() and (runs["strategy"] == "local").any()
    assert console_table(runs).row_count == len(results_frame(runs)) + block


def test_study_without_results(tmp_path: Path) -> None:
    runs = make_runs(seeds=[0], status="failed", error="ValueError: the disk is full")
    study = make_study(runs)
    page = Page(write_report(study, tmp_path))
    assert study_pictures(study, gallery(study)) == {}
    assert "no run succeeded" in page.text
    assert page.text.count("ValueError: the disk is full") == 20
    assert console_table(runs).row_count == 0


CONTEXT: dict[str, Any] = {
    "settings": {
        "clinics": [{"profile": "hospital", "sites": ("cleveland", "va")}, {"profile": "rural-dsl"}],
        "sweep": {"privacy.epsilon": [1, 3, 8, inf]},
    },
    "versions": {"suture": "0.1.0", "python": "3.11.9"},
    "data_card": "# Heart disease\n\nchol = 0 means missing",
    "commands": [{"time": "now", "command": "suture run scenarios/heart.toml", "scenario-sha256": "a1b2"}],
    "statistics": {"range of age": "public"},
}


def test_report_is_complete(tmp_path: Path) -> None:
    study = make_study(make_runs(), **CONTEXT)
    path = write_report(study, tmp_path)
    assert path == tmp_path / "report.html"
    page = Page(path)
    assert all(name in page.text for name in METHODS.values())
    for text in (
        "clinics[1].sites",
        "cleveland, va",
        "1, 3, 8, ∞",
        "3.11.9",
        "chol = 0 means missing",
        "suture run",
        "a1b2",
        "age: public",
    ):
        assert text in page.text
    assert page.count("table") == page.count("caption") == 10 + 2 * len(METHODS)  # two in each statement
    names = ["clinics", "learning", "privacy", "privacy_accuracy", "time", "traffic"]
    assert sorted(study_pictures(study, gallery(study))) == names
    told = [attributes["aria-label"] or "" for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(told) == page.count("figure") == len(names) - 1  # all take the same time and traffic: no Pareto chart
    assert "Local from 0.690 to 0.740" in told[0]
    text = path.read_text(encoding="utf-8")  # and it needs no network
    assert not re.search(r"@import|url\(|<img|<iframe|src=", text)
    links = [attributes["href"] or "" for tag, attributes in page.tags if "href" in attributes]
    assert all(link.startswith(("#", "data:")) for link in links)
    assert {link[1:] for link in links if link.startswith("#")} <= {attributes.get("id") for _, attributes in page.tags}


def test_first_screen_answers_in_five_sentences(tmp_path: Path) -> None:
    runs = make_runs()
    runs.loc[runs["strategy"] == "fedavg", "sim_seconds"] = 60.0
    study = make_study(runs, **CONTEXT)
    first, privacy, cost, caveat = answers(study, gallery(study))
    assert first.startswith("At ε = 3: FedAvg has the highest within-clinic AUC of the methods that train together: ")
    assert privacy == (
        "DP costs FedAvg .050±.000 of within-clinic AUC at ε = 1, .020±.000 at ε = 3, .010±.000 at ε = 8; its ε at "
        "ε = 3: model user 2.97, peer clinic 2.97, server 2.97. It was taken for its score at ε = 3: by chance "
        "alone its price there looks small."
    )
    alone = make_study(make_runs(methods=[("local", ""), ("fedavg", "")]))
    assert not any("looks small" in said for said in answers(alone, gallery(alone)))
    assert cost == (
        "A run of FedAvg takes 1 min and 3.42 MB of traffic; none of the methods that train together is quicker, and "
        "the slowest is SplitFed V1, U-shaped with 3.2 min and 3.42 MB."
    )
    assert caveat.startswith("No method was tuned: ")
    assert caveat.endswith("Nothing is said about hospitals that took no part.")
    text = " ".join(Page(write_report(study, tmp_path)).text.split())
    assert all(sentence in text for sentence in (first, privacy, cost, caveat))
    cut = "SplitFed V1, vanilla; SplitFed V1, U-shaped"
    assert f"Even with DP, ε is infinite for the server in {cut}: smashed rows leave without noise." in text
    assert "infinite for the model user" not in text
    assert "infinite for the server in FedAvg" not in text


def test_what_dp_costs_has_the_interval_of_a_difference() -> None:
    """Without predictions that of the three paired differences between levels, as a corrected resampled t."""
    runs = make_runs(epsilons=(1.0, inf), methods=[("fedavg", ""), ("splitfed-v1", "vanilla")])
    loses = 0.05 - 0.01 * runs["seed"] * (runs["strategy"] == "fedavg")
    runs["within_clinic_auc"] -= (loses - 0.05) * (runs["privacy.epsilon"] == 1.0)
    study = make_study(runs)
    said = next(text for text in answers(study, gallery(study)) if text.startswith("DP costs FedAvg"))
    gaps = np.array([0.05, 0.04, 0.03])
    width = stats.t.ppf(0.975, 2) * np.sqrt((1 / 3 + 1 / 2) * gaps.var(ddof=1))
    assert said.startswith(f"DP costs FedAvg .040±{width:.3f}".replace("0.", ".") + " of within-clinic AUC at ε = 1; ")


def test_methods_that_take_as_long_may_send_more() -> None:
    runs = make_runs(methods=[("fedavg", ""), ("splitfed-v1", "vanilla")])
    study = make_study(runs)
    assert "; the others take as long." in " ".join(answers(study, gallery(study)))
    runs.loc[runs["strategy"] == "splitfed-v1", "bytes_up"] *= 2
    study = make_study(runs)
    assert "; the others take as long, with 3.42 MB to 6.83 MB of traffic." in " ".join(answers(study, gallery(study)))


def test_the_caption_names_what_intervals_are_over() -> None:
    assert caption(make_runs()).startswith("Mean ± half-width of the 95 % interval over seeds. Simulated")
    assert caption(make_runs(seeds=[0])).startswith("Of one seed. Simulated")
    known = HeldOut(predictions=pd.DataFrame(), ratio=0.5, same_patients=True, margin=0.01)
    assert "interval over patients. Of one seed. Simulated" in caption(make_runs(seeds=[0]), known)


def test_no_chart_without_information() -> None:
    """Nothing at epsilon where nothing is private, and no costs where all pay the same."""
    open_study = make_study(make_runs(epsilons=[inf]).drop(columns="privacy.epsilon"))
    shown = gallery(open_study)
    assert [figure.name for figure in shown.figures if figure.first] == ["scores"]
    assert "epsilon" not in shown.tables["scores"]
    runs = make_runs(epsilons=[inf])
    runs["sim_seconds"] = [10.0 * (row + 1) for row in range(len(runs))]
    pareto = next(figure for figure in gallery(make_study(runs)).figures if figure.name == "pareto")
    assert len(pareto.panels) == 1  # time; not traffic, and no epsilon
    assert shown.tables["scores"]["series"].unique().tolist() == ["Centralised", "Local", "FedAvg = SplitFed V1"]
    runs = make_runs()  # no run has a guarantee against the server
    runs[["epsilon_server", "epsilon_server_replace"]] = inf
    privacy = gallery(make_study(runs)).figures[0]
    assert (privacy.name, len(privacy.panels)) == ("privacy", 2)
    assert privacy.note.endswith("No run has a guarantee against the server.")


def test_methods_that_are_equal_bit_for_bit_share_a_name() -> None:
    ok = with_levels(successful_runs(make_runs()))
    names = equals(ok, ["auc", "accuracy"])
    both = "FedAvg = SplitFed V1"
    assert names == {
        "Centralised": "Centralised", "Local": "Local", "FedAvg": both, "SplitFed V1, vanilla": both,
        "SplitFed V1, U-shaped": both,
    }  # fmt: skip
    apart = equals(ok, ["auc", "epsilon_server"])
    assert apart["FedAvg"] == "FedAvg"
    assert (
        apart["SplitFed V1, vanilla"] == "SplitFed V1, vanilla = SplitFed V1, U-shaped"
        or apart["SplitFed V1, vanilla"] == "SplitFed V1"
    )
    table = pd.DataFrame({"series": ["SplitFed V1, vanilla", "SplitFed V1, U-shaped", "Local"]})
    assert together(table, names)["series"].tolist() == [both, "Local"]  # the first that the table has
    ok.loc[(ok["series"] == "FedAvg") & (ok["seed"] == 1), "auc"] += 1e-15
    assert equals(ok, ["auc"])["FedAvg"] == "FedAvg"


def test_the_worst_clinic_of_a_seed_is_that_of_all_its_folds() -> None:
    folds = [("a; b", 0.7, "a"), ("c; d", 0.5, "d"), ("e", nan, "")]
    runs = pd.concat(
        [
            make_runs(epsilons=[inf], seeds=(0, 1), held_out=held_out, worst_clinic=name).assign(
                worst_clinic_auc=lambda table, score=score: score - 0.1 * table["seed"]
            )
            for held_out, score, name in folds
        ],
        ignore_index=True,
    ).drop(columns="privacy.epsilon")
    runs["run_id"] = [f"run{row}" for row in runs.index]
    assert set(results_frame(runs)["Worst clinic AUC"]) == {".450"}  # of .5 and .4, not of all five that there are
    study = make_study(runs)
    rounds = pd.concat([runs.assign(round=number) for number in (0, 1)])
    curves = learning(study.drawn, rounds)
    assert set(curves["n"]) == {2}
    last = curves[(curves["score"] == "Worst clinic's AUC") & (curves["round"] == 1)]
    assert last["mean"].tolist() == pytest.approx([0.45] * len(last))
    assert set(worst_frame(make_study(runs))["as set"]) == {"d (2 of 2), .450"}
    assert summarise(successful_runs(runs), ["series"], "worst_clinic_auc")["n"].eq(2).all()


def test_everything_is_escaped(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    runs = make_runs(study=evil, methods=[("fedavg", ""), ("local", "")])
    runs["error"] = None
    runs["model.name"] = [evil if seed else "mlp" for seed in runs["seed"]]
    runs.loc[runs["seed"] == 2, ["status", "error"]] = ["failed", evil]
    runs.loc[runs["strategy"] == "local", "strategy"] = f"mine.{evil}"
    runs["worst_clinic"] = evil
    context: dict[str, Any] = {"settings": {evil: evil, "list": [{evil: [evil]}]}, "versions": {evil: evil}}
    context |= {"data_card": f"</pre>{evil}", "statistics": {evil: evil}}
    context["commands"] = [dict.fromkeys(("time", "command", "scenario-sha256"), evil)]
    study = replace(make_study(runs, **context), name=evil)
    study.clinics["name"] = evil
    study.traffic["kind"] = study.phases["phase"] = evil
    path = write_report(study, tmp_path)
    assert Page(path).text.count(evil) > 10
    text = path.read_text(encoding="utf-8")
    assert text.count("<script>") == text.count("</script>") - 1 == 2  # ours, and the data
    assert "alert(1)" not in "".join(re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL))
    for picture in draw(study_pictures(study, gallery(study)), tmp_path / "figures")[1::2]:
        assert "<script" not in picture.read_text(encoding="utf-8")


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, sim.report; sys.exit(bool({'altair', 'jinja2', 'vl_convert', 'scipy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_line_of_reference_is_in_tables_and_in_no_chart() -> None:
    runs = make_runs(
        epsilons=[3.0, inf], methods=[("prevalence", ""), ("fedavg", ""), ("local", "")], within_clinic_auc=0.7
    )
    shown = gallery(study := make_study(runs))
    assert {look.series for look in shown.given} == {"FedAvg", "Local"}
    pictures = study_pictures(study, shown)
    drawn = {row["series"] for row in datasets(pictures["privacy_accuracy"]) if "series" in row}
    assert drawn == {"FedAvg", "Local"}
    assert results_frame(runs)["Method"].unique().tolist()[0] == "FedAvg"
    assert "Prevalence alone" in set(results_frame(runs)["Method"])


def test_names_that_equal_series_share_come_in_reading_order() -> None:
    names = {f"method {k}": f"pair {k // 2}" for k in range(20)}
    assert list(members_of([names])) == [f"pair {k}" for k in range(10)]
    assert members_of([names])["pair 3"] == ["method 6", "method 7"]


def test_a_figures_words_count_the_levels_at_which_methods_are_equal() -> None:
    """Both end at .84 without DP, where one line is drawn for the two."""
    runs = make_runs(epsilons=(1.0, inf), methods=[("fedavg", ""), ("splitfed-v1", "vanilla")])
    runs["within_clinic_auc"] += 0.01 * ((runs["strategy"] == "fedavg") & (runs["privacy.epsilon"] == 1.0))
    figures = {figure.name: figure for figure in gallery(make_study(runs)).figures}
    said = figures["learning"].description
    assert said.endswith("each method: FedAvg from 0.800 to 0.840; SplitFed V1, vanilla from 0.790 to 0.840.")


def test_a_study_whose_clinics_have_one_class_each_ranks_nobody(tmp_path: Path) -> None:
    study = make_study(make_runs(within_clinic_auc=nan, worst_clinic_auc=nan))
    shown = gallery(study)
    assert answers(study, shown) == ["No clinic's held-out records are of two classes, so that no method is ranked."]
    pictures = study_pictures(study, shown)
    assert all(path.stat().st_size for path in draw(pictures, tmp_path))
    assert "within-clinic" not in pictures["privacy_accuracy"]["description"]


def test_what_was_compared_is_counted() -> None:
    runs = make_runs(epsilons=[inf], methods=[("fedavg", "")])
    said = what_was_compared(make_study(runs))
    assert said == "Compared: 1 method, on 3 seeds, over 2 clinics with 120 training and 60 held-out records."
    both = pd.concat(
        [runs.assign(**{"train.rounds": 1}), runs.assign(**{"train.rounds": 2}, run_id="b" + runs["run_id"])]
    )
    assert what_was_compared(make_study(both)).startswith("Compared: 1 method in 2 settings, on 3 seeds, ")
    folds = [runs.assign(held_out=name, run_id=name + runs["run_id"]) for name in ("north", "south")]
    study = make_study(pd.concat(folds))
    own = study.clinics["run_id"].str.startswith("north") == (study.clinics["name"] == "north")
    study = replace(study, clinics=study.clinics.assign(test_records=np.where(own, 60, 0)))
    told = "over 2 clinics with 120 held-out records, of clinics that took no part in training."
    assert what_was_compared(study).endswith(told)
