"""Advice from hand-written runs, and the small language of its condition."""

import math
from functools import partial

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import SCENARIO, write_scenario

from sim import run
from sim.foundation.problems import ScenarioError
from sim.report.advice import advise
from sim.report.condition import parse_condition
from sim.report.summary import under_one_adjacency
from sim.results.store import as_table
from sim.scenario import load_scenario
from sim.scenario.spec import expand

KNOWN = ["auc", "hours", "epsilon_server", "privacy.epsilon", "train.batch-size"]


def holds(text, **values):
    return bool(parse_condition(text, KNOWN, "--where").holds(pd.DataFrame([values])).item())


@given(auc=st.floats(0, 1), hours=st.floats(0, 100), epsilon=st.sampled_from([0.0, 3.0, math.inf]))
def test_a_condition_means_what_python_means(auc, hours, epsilon):
    values = {"auc": auc, "hours": hours, "epsilon_server": epsilon}
    for text in (
        "auc>=0.5 and hours<24 or epsilon_server==inf",
        "not (auc<0.5) and not hours>24",
        "0.2<auc<=0.8",
        "hours!=-1 and epsilon_server<inf",
        "auc<hours",
    ):
        assert holds(text, **values) is eval(text, {"__builtins__": {}, "inf": math.inf}, values)  # noqa: S307


def test_what_is_unknown_does_not_hold_either_way():
    assert not holds("auc>0.5", auc=math.nan)
    assert not holds("not auc>0.5", auc=math.nan)
    assert not holds("auc>0.5 and hours<1", auc=math.nan, hours=0)
    assert not holds("auc>0.5 or hours<1", auc=math.nan, hours=0)


def test_a_swept_key_is_written_with_its_dot():
    values = {"privacy.epsilon": 3.0, "train.batch_size": 8}
    condition = parse_condition("privacy.epsilon<=3 and train.batch_size>4", KNOWN, "--where")
    assert condition.names == set(values)
    assert condition.holds(pd.DataFrame([values])).all()
    assert [clause.text for clause in condition.clauses] == ["privacy.epsilon <= 3", "train.batch_size > 4"]


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "auc.__class__ > 3",
        "print(1) < 2",
        "(lambda: 1)() < 2",
        "auc[0] > 1",
        "auc + 1 > 2",
        "2**99999999 > auc",
        "'a' < auc",
        "auc in (1, 2)",
        "auc is 1",
        "auc",
        "True",
        "1 < 2",
        "auc.real.imag > 3",
        "auc > @hours",
        "`auc` > 3",
        "auc > True",
        "[x for x in auc] > 1",
        "(auc := 1) > 0",
        "auc > 0.5 and",
        "auc > 0.5; hours",
        "auc > 1e",
        "auc > 0.5 if hours else 1",
        "f'{auc}' < 2",
        "(" * 300 + "auc>1" + ")" * 300,
        "auc>1 and " * 200 + "auc>1",
        "\0",
        "",
    ],
)
def test_anything_but_comparisons_is_refused_in_one_line(text):
    with pytest.raises(ScenarioError) as error:
        parse_condition(text, KNOWN, "--where")
    assert all(line.startswith("--where: ") for line in error.value.problems)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(ScenarioError, match='unknown name "epsilon_sever"; did you mean "epsilon_server"'):
        parse_condition("epsilon_sever<=8", KNOWN, "--where")


def rows(strategy, aucs, seconds, epsilon, cut="", **more):
    known = {"cut": cut, "study": "s", "rounds": 1, "bytes_up": 2e9, "bytes_down": 1e9, "status": "ok"}
    known |= {"unit": "record", "mechanism": "dp-sgd", "method": strategy}
    epsilons = {"epsilon_model_user": 3.0, "epsilon_peer": 3.0, "epsilon_server": epsilon}
    return [
        {"run_id": f"{strategy}{cut}{seed}", "strategy": strategy, "seed": seed, "auc": auc, "sim_seconds": seconds}
        | (known | epsilons | more)
        for seed, auc in enumerate(aucs)
    ]


def table(*groups):
    return as_table([row for group in groups for row in group])


RUNS = table(
    rows("fedavg", [0.80, 0.82, 0.84], 7200.0, 3.0),
    rows("fedprox", [0.79, 0.82, 0.82], 3600.0, 3.0),
    rows("split", [0.90, 0.91, 0.92], 36000.0, math.inf, "vanilla"),
    rows("local", [0.60, 0.61, 0.62], 1.0, 0.0),
)


def ranked(*groups, where="", best="auc", cost="sim_seconds"):
    return advise(table(*groups), where, best, cost, planned=False)


def test_what_each_clause_rules_out_and_how_far_the_figures_go():
    advice = advise(RUNS, "epsilon_server<=8 and hours<1.5", "auc", planned=False)
    assert advice.best == "FedProx"
    assert "epsilon_server <= 8 rules out 1, hours < 1.5 rules out 2" in advice.paragraph
    assert "2 of 4 methods are excluded" in advice.paragraph
    # Mean .810; sample deviation of (.79, .82, .82) is .017321; t(2) = 4.302653; sqrt(1/3 + 1/2) = .912871.
    assert "pooled AUC .810±.068 (3 seeds); 1 h, " in advice.paragraph
    assert "no other is shown to equal it within .01" in advice.paragraph
    assert "No method was tuned" in advice.paragraph
    assert not advice.as_good
    assert not advice.unsettled  # Local is .2 below on every seed


def test_advice_on_regions_and_through_edge_servers_names_them():
    """A method for clinics is best, beside one for parties; an edge server has an epsilon where there is one."""
    scores = [{"within_clinic_auc": auc} for auc in (0.8, 0.7)]
    apart, joined = rows("local", [0.8], 1.0, 0.0, **scores[0]), rows("vertical", [0.7], 2.0, math.inf, **scores[1])
    said = ranked(apart, joined, best="within_clinic_auc").paragraph
    assert "within-region AUC" in said
    assert "peer party 3" in said
    assert "Nothing is said about patients elsewhere" in said
    assert "clinic" not in said
    hops = [rows("fedavg", [0.6], 1.0, 3.0, epsilon_edge=math.nan), rows("split", [0.9], 1.0, 3.0, epsilon_edge=7.0)]
    assert "server 3, edge server 7" in ranked(*hops).paragraph
    assert "edge server" not in ranked(*hops[:1], rows("split", [0.5], 1.0, 3.0, epsilon_edge=7.0)).paragraph


def test_of_what_is_as_good_the_cheapest_is_taken():
    aucs = [0.80, 0.82, 0.84, 0.83, 0.81]
    small = [auc - 0.002 - 0.0001 * seed for seed, auc in enumerate(aucs)]
    alike = [
        rows("fedavg", aucs, 7200.0, 3.0, bytes_up=1e9),
        rows("fedprox", small, 3600.0, 3.0, bytes_up=2e9),
        rows("local", [0.6, 0.62, 0.64, 0.63, 0.61], 1.0, 0.0),
    ]
    advice = ranked(*alike)
    assert (advice.best, advice.as_good, advice.unsettled) == ("FedProx", ("FedAvg",), ())
    assert "that of FedAvg (pooled AUC .820±" in advice.paragraph
    assert "FedProx is equal to it within .01 at the least simulated time." in advice.paragraph
    by_traffic = ranked(*alike, cost="bytes_up")
    assert (by_traffic.best, by_traffic.as_good) == ("FedAvg", ("FedProx",))
    assert "Equal as well, with no less traffic up: FedProx." in by_traffic.paragraph


def test_the_best_of_a_loss_is_called_the_lowest_and_no_margin_is_named_where_there_is_none():
    losses = [rows("fedavg", [0.5] * 3, 2.0, 3.0, loss=0.4), rows("fedprox", [0.5] * 3, 2.0, 3.0, loss=0.4)]
    said = ranked(*losses, rows("split", [0.5] * 3, 1.0, 3.0, "vanilla", loss=0.7), best="loss").paragraph
    assert "It has the lowest log loss, and none that equals it takes less simulated time." in said
    assert "Equal as well, with no less simulated time: FedProx." in said  # as much
    brier = [rows("fedavg", [0.5] * 3, 2.0, 3.0, brier=0.1), rows("split", [0.5] * 3, 1.0, 3.0, "vanilla", brier=0.3)]
    assert "It has the lowest Brier score, and no other is shown to equal it" in ranked(*brier, best="brier").paragraph


def test_a_score_that_nobody_has_is_not_a_condition_that_nobody_meets():
    advice = ranked(rows("fedavg", [0.8], 1.0, 3.0), rows("local", [0.7], 1.0, 0.0), best="brier")
    assert advice.best is None
    assert advice.paragraph == "Of the 2 methods none has a known Brier score."


def test_what_cannot_be_told_is_said_and_not_taken_for_equal():
    advice = advise(RUNS, "epsilon_server<=8 and auc>.7", "auc", planned=False)
    assert (advice.best, advice.as_good, advice.unsettled) == ("FedAvg", (), ("FedProx",))
    assert (
        "It cannot be told whether 1 other is worse: FedProx. Of these FedProx (1 h) takes the least"
        in advice.paragraph
    )


def test_seeds_are_paired():
    advice = ranked(rows("fedavg", [0.5, 0.7, 0.9], 1.0, 1.0), rows("fedprox", [0.44, 0.64, 0.841], 1.0, 1.0))
    assert not advice.unsettled


def test_equals_go_by_time():
    advice = ranked(
        rows("fedavg", [0.8, 0.9], 50.0, 3.0),
        rows("splitfed-v1", [0.8, 0.9], 20.0, math.inf, "vanilla"),
        rows("splitfed-v1", [0.8, 0.9], 90.0, math.inf, "u-shaped"),
    )
    assert (advice.best, advice.as_good) == ("SplitFed V1, vanilla", ("FedAvg", "SplitFed V1, U-shaped"))


def test_costs_are_ranked_by_the_lowest():
    advice = advise(RUNS, "auc>0.7", "hours", planned=False)
    assert advice.best == "FedProx"
    assert "Next is FedAvg with 2 h, " in advice.paragraph
    assert "equal" not in advice.paragraph


def test_the_reference_is_no_method_to_take():
    advice = ranked(rows("fedavg", [0.6, 0.7], 50.0, 3.0), rows("prevalence", [0.8, 0.9], 0.0, 0.0))
    assert advice.best == "FedAvg"


def test_the_largest_epsilon_over_seeds_decides():
    uneven = rows("fedavg", [0.8, 0.8], 1.0, 3.0)
    uneven[1]["epsilon_server"] = 9.0
    runs = table(uneven, rows("local", [0.6, 0.6], 1.0, 0.0))
    assert advise(runs, "epsilon_server<=8", "auc", planned=False).best == "Local"


def test_two_that_are_both_infinite_are_equal():
    both = table(*(rows("split", [0.8, 0.9], 1.0, math.inf, cut) for cut in ("vanilla", "u-shaped")))
    advice = advise(both, "", "epsilon_server", planned=False)
    assert (advice.best, advice.as_good) == ("Split learning, vanilla", ("Split learning, U-shaped",))
    assert "Next is Split learning, U-shaped with ∞, as much, " in advice.paragraph


def test_energy_is_told_in_joules():
    runs = table(*(rows(name, [0.8, 0.9], 1.0, 1.0, clinic_joules=float(len(name))) for name in ("fedavg", "fedprox")))
    assert "energy of all clinics 6 J (2 seeds)" in advise(runs, "", "clinic_joules", planned=False).paragraph


def test_swept_settings_are_methods_of_their_own():
    groups = [
        rows("fedavg", [auc], 1.0, target, **{"privacy.epsilon": target}) for auc, target in ((0.7, 1.0), (0.8, 8.0))
    ]
    assert advise(table(*groups), "", "auc", planned=False).best == "FedAvg, target ε 8"
    assert advise(table(*groups), "privacy.epsilon<8", "auc", planned=False).best == "FedAvg, target ε 1"


def test_one_seed_settles_nothing():
    advice = ranked(rows("fedavg", [0.9], 1.0, 1.0), rows("fedprox", [0.5], 1.0, 1.0))
    assert (advice.best, advice.unsettled) == ("FedAvg", ("FedProx",))


def test_nothing_meets_the_condition():
    advice = advise(RUNS, "auc>0.95 and hours<1000", "auc", planned=False)
    assert advice.best is None
    assert "None of the 4 methods meets the condition (auc > 0.95 rules out 4, hours < 1000 rules out 0)" in (
        advice.paragraph
    )


def test_from_a_plan_scores_are_unknown():
    planned = RUNS.assign(auc=math.nan)
    advice = advise(planned, "auc>0.8 and epsilon_server<=8", "auc", planned=True)
    assert advice.best == "Local"
    for part in (
        "scores are unknown",
        "by simulated time instead of pooled AUC",
        "Ignored until runs are finished: auc > 0.8.",
    ):
        assert part in advice.paragraph


def test_a_cost_is_a_figure_too():
    with pytest.raises(ScenarioError, match='--cost: cannot rank by "second"; did you mean'):
        advise(RUNS, "", "auc", "second", planned=False)


@pytest.mark.parametrize("best", ["aucc", "strategy", "seed", "privacy.epsilon"])
def test_only_figures_can_be_ranked_by(best):
    with pytest.raises(ScenarioError, match="--best: cannot rank by"):
        advise(RUNS, "", best, planned=False)


TWO_METHODS = (
    SCENARIO
    + """
[[strategies]]
name = "fedavg"
[[strategies]]
name = "splitfed-v1"
"""
)


@pytest.fixture
def advised(suture, tmp_path):
    write_scenario(tmp_path, TWO_METHODS)
    return partial(suture, "advise", "small.toml")


def test_the_command_reads_the_study_s_table(advised, tmp_path):
    specs = expand(load_scenario(tmp_path / "small.toml"))
    finished = [{"run_id": spec.run_id, "strategy": spec.strategy.name} for spec in specs[:3]]
    written = [row | finished[i] for i, row in enumerate(rows("fedavg", [0.7, 0.71, 0.6], 1.0, 1.0))]
    stale = [row | {"strategy": "local"} for row in rows("local", [0.99], 1.0, 1.0)]
    (tmp_path / "results" / "small").mkdir(parents=True)
    as_table(written + stale).to_parquet(tmp_path / "results" / "small" / "runs.parquet")
    code, out, _ = advised("--best", "auc", "--where", "gigabytes_up<=2 and minutes<1")
    assert code == 0
    assert out.startswith("Take FedAvg: pooled AUC .705")
    assert "1 of the study's 4 runs are not finished" in out
    assert advised("--where", "gigabytes_up<2")[0] == 1


def test_the_command_falls_back_on_the_plan(advised):
    code, out, _ = advised("--best", "bytes_up")
    assert code == 0
    assert "this uses the plan alone" in out
    code, out, err = advised("--where", "huors<3 and open(1)>2")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        '--where: unknown name "huors"; did you mean "hours"?',
        '--where: "open(1)" is neither a column nor a number; write it like "epsilon_server<=8 and hours<=24"',
    ]


def test_advice_of_a_tuned_study_goes_by_the_runs_at_their_chosen_settings(suture, tmp_path):
    (tmp_path / "s.toml").write_text(
        'name="s"\nseeds=[0, 1]\n[data]\nsource="heart-disease"\n[model]\nname="logistic"\n'
        '[tune]\n"train.learning-rate"=[0.02, 0.3]\n[train]\nrounds=2\nbatch-size=64\n'
        '[[strategies]]\nname="fedavg"\n',
        encoding="utf-8",
    )
    _, before, _ = suture("advise", "s.toml")
    assert before.startswith("No run is finished")
    table = run(tmp_path / "s.toml", tmp_path / "results").runs
    assert "tuned.train.learning-rate" in table
    _, after, _ = suture("advise", "s.toml")
    assert after.startswith("Take FedAvg: within-clinic AUC")
    assert "not finished" not in after


def test_epsilons_of_colluders_are_compared_under_replace_one_too():
    mixed = pd.DataFrame(
        {
            "mechanism": ["dp-sgd", "smashed-noise"],
            "adjacency": ["zero-out", "replace-one"],
            "epsilon_server_and_peers": [1.0, 2.0],
            "epsilon_server_and_peers_replace": [2.2, 2.0],
        }
    )
    assert under_one_adjacency(mixed)["epsilon_server_and_peers"].tolist() == [2.2, 2.0]
