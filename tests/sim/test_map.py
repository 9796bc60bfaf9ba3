"""The decision map: each point by hand, ties as ties, blanks with a reason, and re-timing that trains nothing."""

import json
from math import inf, nan

import pandas as pd
import pytest
from report_studies import make_runs, make_study

from sim.api.mapping import _axis
from sim.foundation.problems import ScenarioError
from sim.report.decision import candidates_of, decide, map_frame, map_rows, map_stripes, swept_key, within
from sim.report.evidence_charts import map_note
from sim.report.gallery import gallery, study_pictures
from sim.report.pictures import draw
from sim.results.decision_map import keep_map, read_map

METHODS = [("local", ""), ("fedavg", ""), ("split", "vanilla"), ("splitfed-v1", "vanilla")]
FEDAVG, SPLIT, V1 = "FedAvg", "Split learning, vanilla", "SplitFed V1, vanilla"
SECONDS = {FEDAVG: {"1": 100.0, "10": 10.0}, SPLIT: {"1": 40.0, "10": 30.0}, V1: {"1": 41.0, "10": 20.0}}


def study_of(scores, seeds=(0, 1, 2, 3)):
    """Runs of four seeds that all score alike but for a seed's own noise, which pairs take out."""
    runs = make_runs(epsilons=[1.0, inf], methods=METHODS, seeds=seeds)
    noise = runs["seed"].map({0: 0.0, 1: 0.001, 2: -0.001, 3: 0.0})
    jitter = [0.0001 * (row % 3) for row in range(len(runs))]
    keys = zip(runs["strategy"], runs["privacy.epsilon"], strict=True)
    return runs.assign(within_clinic_auc=[scores[key] for key in keys] + noise + jitter)


SCORES = {
    ("local", 1.0): 0.60, ("local", inf): 0.80,
    ("fedavg", 1.0): 0.80, ("fedavg", inf): 0.80,
    ("split", 1.0): 0.70, ("split", inf): 0.80,
    ("splitfed-v1", 1.0): 0.80, ("splitfed-v1", inf): 0.80,
}  # fmt: skip


def decided(runs, conditions=(), seconds=SECONDS):
    table = candidates_of(runs, "privacy.epsilon")
    rows = list(dict.fromkeys(table["row"]))
    times = {(name, row): own for name, own in seconds.items() for row in rows}
    return decide(table, times, ("clinics.uplink", "privacy.epsilon"), within(conditions, table))


def at(shown, x, y):
    [point] = [point for point in shown.points if (point.x, point.y) == (x, y)]
    return point


def test_the_quickest_of_those_that_are_not_worse_and_ties_share_a_point():
    shown = decided(study_of(SCORES))
    assert (shown.columns, shown.rows) == (["1", "10"], ["ε = 1", "no DP"])
    # Relay is far behind at epsilon 1; V1 takes 41 s against FedAvg's 100 on the slow line, and 20 against 10 else.
    assert (at(shown, "1", "ε = 1").method, at(shown, "10", "ε = 1").method) == (V1, FEDAVG)
    tied = at(shown, "1", "no DP")  # the relay's 40 s and V1's 41 s are one point
    assert (tied.method, tied.others) == (SPLIT, [V1])
    assert [at(shown, x, y).alone for x, y in (("1", "ε = 1"), ("1", "no DP"))] == [False, True]
    assert all(point.settled and not point.reason for point in shown.points)


def test_a_quicker_method_that_is_not_told_apart_is_said_and_not_taken():
    """V1 is .04 better on the mean of two seeds; FedAvg, which is quicker, gains .08 on one of them."""
    runs = study_of(SCORES | {("splitfed-v1", 1.0): 0.84}, seeds=(0, 1))
    noisy = runs["within_clinic_auc"] + 0.08 * ((runs["seed"] == 1) & (runs["strategy"] == "fedavg"))
    shown = decided(runs.assign(within_clinic_auc=noisy - 0.04 * (runs["strategy"] == "fedavg")))
    point = at(shown, "10", "ε = 1")
    assert (point.method, point.settled) == (V1, False)
    assert point.reason == "FedAvg is quicker; its mean is .040 lower, but not told apart"
    assert "Faint" in map_note(shown)


def test_conditions_are_checked_on_the_time_of_the_point_and_on_epsilon():
    shown = decided(study_of(SCORES), ["minutes <= 0.5 and epsilon_server <= 8"])
    assert shown.within == ["minutes <= 0.5", "epsilon_server <= 8"]
    assert at(shown, "10", "ε = 1").method == FEDAVG
    assert at(shown, "1", "ε = 1").method == ""
    assert at(shown, "1", "ε = 1").reason == "minutes <= 0.5 rules out 3 of 3; epsilon_server <= 8 rules out 2 of 3"
    assert at(shown, "10", "no DP").reason == "epsilon_server <= 8 rules out 3 of 3"
    assert "Blank: no method meets the conditions." in map_note(shown)


def test_a_condition_on_what_is_not_re_timed_is_refused():
    with pytest.raises(ScenarioError, match="unknown name"):
        decided(study_of(SCORES), ["idle_share < 0.5"])


def test_stripes_fill_their_point_and_the_table_joins_points_alike():
    shown = decided(study_of(SCORES))
    stripes = map_stripes(shown)
    tied = stripes[(stripes["column"] == "1") & (stripes["row"] == "no DP")]
    assert tied["series"].tolist() == [V1, SPLIT]  # in the order of the map, the same at each point
    assert tied["y2"].max() - tied["y"].min() == pytest.approx(0.94)
    assert (tied["y2"] - tied["y"]).tolist() == pytest.approx([0.47, 0.47])
    same = {name: {"1": 5.0, "10": 5.0} for name in SECONDS}
    frame = map_frame(decided(study_of(SCORES), seconds=same))
    assert frame["uplink"].tolist() == ["1 to 10", "1 to 10"]
    assert len(map_rows(shown)) == 4


def test_the_map_is_a_picture_of_the_first_screen_in_the_methods_own_colours():
    shown = decided(study_of(SCORES))
    study = make_study(study_of(SCORES), decided=shown)
    found = gallery(study)
    [figure] = [one for one in found.figures if one.name == "map"]
    assert figure.first
    colours = {look.series: look.colour for look in found.drawn(figure)}
    assert colours == {FEDAVG: "#0072B2", SPLIT: "#E69F00", V1: "#D55E00"}
    assert "ε = 1, 1: SplitFed V1, vanilla" in figure.description


def test_a_map_names_methods_without_the_swept_settings_of_their_series(tmp_path):
    runs = study_of(SCORES)
    swept = [runs.assign(run_id=runs["run_id"] + f"-{cut}", **{"model.cut": cut}) for cut in (1, 2)]
    study = make_study(pd.concat(swept, ignore_index=True), decided=decided(runs))
    found = gallery(study)
    [figure] = [one for one in found.figures if one.name == "map"]
    assert {look.series: look.colour for look in found.drawn(figure)} == {
        FEDAVG: "#0072B2",
        SPLIT: "#E69F00",
        V1: "#D55E00",
    }
    assert not {FEDAVG, SPLIT, V1} & {look.series for look in found.given}, "the page lists the series"
    assert draw({"map": study_pictures(study, found)["map"]}, tmp_path)


def test_a_map_on_which_nothing_is_left_is_drawn_blank(tmp_path):
    runs = study_of(SCORES)
    study = make_study(runs, decided=decided(runs, ["hours<=0"]))
    pictures = study_pictures(study, gallery(study))
    assert all(path.stat().st_size for path in draw({"map": pictures["map"]}, tmp_path))
    assert "Blank: no method meets the conditions." in map_note(study.decided)
    unknown = decided(runs.assign(within_clinic_auc=nan))
    assert "Blank: no method has a score." in map_note(unknown)


def test_a_kept_map_is_of_its_runs_alone(tmp_path):
    shown = decided(study_of(SCORES), ["minutes <= 0.5"])
    keep_map(tmp_path, shown, ["b", "a"])
    assert read_map(tmp_path, ["a", "b"]) == shown
    assert read_map(tmp_path, ["a"]) is None
    value = json.loads((tmp_path / "map.json").read_text())
    value["points"][0]["seconds"] = "soon"
    (tmp_path / "map.json").write_text(json.dumps(value))
    with pytest.raises(ScenarioError, match=r"map\.json: points\.0\.seconds"):
        read_map(tmp_path, ["a", "b"])
    (tmp_path / "map.json").write_text("[1]")
    with pytest.raises(ScenarioError, match=r"map\.json: the whole: should be a table; restore"):
        read_map(tmp_path, ["a", "b"])


@pytest.mark.parametrize(
    ("text", "key", "values"),
    [
        ("uplink=1 Mbit/s, 10 Mbit/s", "clinics.uplink", ["1 Mbit/s", "10 Mbit/s"]),
        ("workers=1,4", "server.workers", ["1", "4"]),
        ("clinics.0.latency=5 ms", "clinics.0.latency", ["5 ms"]),
        ("uplink=0.1..10 Mbit/s", "clinics.uplink", [f"{v:g} Mbit/s" for v in (0.1, 0.2, 0.5, 1, 2, 5, 10)]),
        ("uplink=1 Mbit/s..4 Mbit/s", "clinics.uplink", [f"{v:g} Mbit/s" for v in (1, 1.5, 2, 3, 4)]),
    ],
)
def test_values_and_ranges_of_x(text, key, values):
    assert _axis(text) == (key, values)


@pytest.mark.parametrize("text", ["uplink", "=1", "uplink=1,,2", "uplink=5..1 Mbit/s"])
def test_an_x_that_is_none_is_one_line(text):
    with pytest.raises(ScenarioError, match="is not a key with values") as error:
        _axis(text)
    assert len(error.value.problems) == 1


def test_y_is_a_swept_key_by_its_name_or_last_part():
    runs = make_runs()
    assert [swept_key(runs, name) for name in ("", "epsilon", "privacy.epsilon")] == ["privacy.epsilon"] * 3
    with pytest.raises(ScenarioError, match='--y: "uplink" was not swept'):
        swept_key(runs, "uplink")


@pytest.mark.slow
def test_the_command_maps_a_finished_study_without_training(suture, trade_off, tmp_path):
    assert suture("run", trade_off, "--out", "results", "--jobs", "1")[0] == 0
    study = tmp_path / "results" / "small"
    assert json.loads((study / "map.json").read_text())["x"] == "clinics.uplink"  # a run maps by itself
    models = {path: path.stat().st_mtime_ns for path in study.glob("*/model.safetensors")}
    x = ["--x", "latency=5 ms,500 ms", "--within", "hours <= 1"]
    code, _, err = suture("map", trade_off, "--out", "results", *x, "--csv", "points.csv")
    assert (code, err) == (0, "")
    kept = json.loads((study / "map.json").read_text())
    assert (kept["x"], kept["columns"]) == ("clinics.latency", ["5 ms", "500 ms"])
    assert (tmp_path / "points.csv").read_text().count("\n") == 1 + len(kept["points"])
    assert (study / "figures" / "map.svg").is_file()
    assert "Which method to take, where hours &lt;= 1" in (study / "report.html").read_text()
    assert {path: path.stat().st_mtime_ns for path in study.glob("*/model.safetensors")} == models
    times = {(p["y"], p["x"]): p["seconds"] for p in kept["points"]}
    assert all(times[row, "500 ms"] > times[row, "5 ms"] for row in kept["rows"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--x", "train.rounds=1,2"], "train.rounds: may change what is learned"),
        (["--x", "uplnk=1 Mbit/s"], "uplnk: may change what is learned"),
        (["--x", "uplink=fast"], "fast"),
        (["--y", "clip"], '--y: "clip" was not swept'),
        (["--within", "hours"], '--within: "hours" is not a comparison'),
    ],
)
def test_what_the_command_cannot_map_is_one_line(suture, trade_off, arguments, line):
    suture("run", trade_off, "--out", "results", "--jobs", "1")
    code, _, err = suture("map", trade_off, "--out", "results", *arguments)
    assert (code, line in err) == (2, True)
    assert err.count("\n") <= 2  # a line for each group of clinics


def test_a_map_of_no_study_is_one_line(suture, trade_off):
    code, _, err = suture("map", trade_off, "--out", "results")
    assert code == 2
    assert "runs.parquet" in err
