"""Sentences about made-up studies: each is said where it is true, and only there."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.made_up import Law, drawn
from benchmarks.words import LAW, TRUTH, results
from benchmarks.words import trials as trials_of_words
from sim.inference.clinics import by_clinic
from sim.inference.differences import Verdict
from sim.inference.hospitals import over_clinics
from sim.report.cautions import _otherwise
from sim.report.compare import Comparison, compare
from sim.report.elsewhere import elsewhere
from sim.report.spoken import HEADLINE, spoken
from sim.report.study import NO_TRIALS
from sim.report.tuning import at_the_edge
from sim.report.words import conclusions

CLEAR = Law(aucs=(0.9, 0.7), patients=2000, noise=0.001, apart=0.2)


def study(law, methods, seed=0, **changes):
    return results(drawn(law, np.random.default_rng(seed)), methods, **changes)


def said(*args, **kwargs):
    return conclusions(study(*args, **kwargs))


def test_a_clear_difference_is_said_and_a_baseline_is_never_the_best():
    [(level, finding), (_, scope)] = said(CLEAR, ["fedavg", "split"])
    assert level == "as set"
    assert finding.startswith("FedAvg has the highest within-clinic AUC: .")
    assert finding.endswith("It is better than Split learning.")
    assert scope.startswith("No method was tuned: ")
    assert "over other patients of these clinics and over seeds." in scope
    [(_, beaten), _] = said(CLEAR, ["centralised", "split"])
    assert beaten.startswith("Split learning has the highest within-clinic AUC of the methods that train together: .")
    assert beaten.endswith("Centralised is better.")


def test_what_knowing_the_clinic_brings_is_said_with_both_leaders():
    trap = replace(CLEAR, aucs=(0.8, 0.75), knows_clinic=(0.0, 1.0), prevalence=(0.1, 0.9))
    [(_, finding), _] = said(trap, ["fedavg", "splitfed-v3"])
    assert "It is better than SplitFed V3." in finding
    assert "The pooled AUC ranks otherwise: SplitFed V3 leads with ." in finding
    assert "before FedAvg with ." in finding
    [(_, agreed), _] = said(replace(trap, knows_clinic=()), ["fedavg", "splitfed-v3"])
    assert "otherwise" not in agreed


@pytest.mark.parametrize(
    ("lead", "said"),
    [
        (0.01, "leads with .593 before A with .583;"),
        (0.0002, "leads with .5833 before A with .5831;"),
        (0.00001, None),
    ],
)
def test_two_pooled_scores_are_never_written_alike(lead, said):
    def ranking(best, first, second):
        means = pd.DataFrame({"group": ["A", "B"], "mean": [first, second]})
        differences = pd.DataFrame({"group": ["A" if best == "B" else "B"], "verdict": [Verdict.OPEN]})
        return Comparison(
            metric="auc", means=means, differences=differences, best=best, baselines=frozenset(), margin=0.01
        )

    words = spoken(pd.DataFrame())
    within, pooled = ranking("A", 0.8, 0.7), ranking("B", 0.5831, 0.5831 + lead)
    told = list(_otherwise(within, pooled, words))
    assert said in told[0] if said else not told


def test_a_method_that_does_not_beat_the_clinics_prevalence_is_named():
    """The third predicts each clinic's share of cases; the first beats it, the second guesses around it."""
    law = replace(CLEAR, aucs=(0.9, 0.5, 0.5), prevalence=(0.3, 0.7))
    made = study(law, ["fedavg", "split", "prevalence"])
    table = made.held_out.predictions
    share = table.groupby("clinic")["label"].transform("mean")
    idle = table["run_id"].str.endswith("-2") | table["run_id"].str.endswith("-1")
    noise = np.random.default_rng(1).normal(0, 0.05, len(table)) * table["run_id"].str.endswith("-1")
    chance = (share + noise).clip(0.01, 0.99)
    table = table.assign(probability_1=table["probability_1"].where(~idle, chance))
    table = table.assign(probability_0=1 - table["probability_1"])
    made = replace(made, held_out=replace(made.held_out, predictions=table))
    [(_, finding), _] = conclusions(made)
    assert "Split learning is not shown to rank better than chance (within-clinic AUC of .5)." in finding
    assert "No better Brier score than that of each clinic's share of cases is shown for Split learning." in finding
    assert "revalence" not in finding
    one = made.runs[made.runs["seed"] == made.runs["seed"].min()]
    [(_, of_one), _] = conclusions(replace(made, runs=one))
    assert "is shown for FedAvg" not in of_one, "of one seed there is no interval, and only who scores worse is named"


def test_what_was_tuned_is_said_and_what_was_not():
    law = replace(CLEAR, patients=300)
    keys = {"tuned.train.learning-rate": [0.1, np.nan] * law.seeds}
    tuned = said(law, ["fedavg", "split"], **{"tuned.train.learning-rate": 0.1})[-1][1]
    assert tuned.startswith(
        "Every method was tuned on the same candidates and ran at the settings that did best on validation records "
        "(train.learning-rate). "
    )
    assert "(train.learning-rate), but for Split learning. " in said(law, ["fedavg", "split"], **keys)[-1][1]


def test_methods_that_did_not_choose_among_the_same_are_told_apart():
    """FedProx tunes two keys; what is called a key of FedAvg's moves nothing; the third tuned nothing."""
    law = replace(CLEAR, aucs=(0.9, 0.8, 0.7), patients=300)
    rate, share = "tuned.train.learning-rate", "tuned.train.participation"
    made = study(law, ["fedavg", "fedprox", "split"])
    chosen = made.runs["strategy"].map({"fedavg": 0.1, "fedprox": 0.1})
    rows = [
        {"strategy": strategy, "cut": "", "seed": seed, rate: a, share: b, "chosen": (a, b) == (0.1, 0.5), "loss": 0.5}
        | {"method": strategy, "score": 0.7 - a / 10 - (b / 100 if strategy == "fedprox" else 0)}
        for strategy in ("fedavg", "fedprox") for seed in range(law.seeds) for a in (0.1, 0.2) for b in (0.5, 0.7, 1.0)
    ]  # fmt: skip
    runs = made.runs.assign(**{rate: chosen, share: chosen + 0.4})
    scope = conclusions(replace(made, runs=runs, trials=pd.DataFrame(rows)))[-1][1]
    assert scope.startswith(
        "Methods ran at the settings that did best on validation records, but did not choose among the same: FedAvg "
        "among 2 settings (train.learning-rate); FedProx among 6 settings (train.learning-rate and "
        "train.participation); Split learning had nothing to choose. A method may stand higher for having more"
    )
    drawn_together = [row for row in rows if (row[rate], row[share]) in ((0.1, 0.5), (0.2, 0.7))]
    joint = conclusions(replace(made, runs=runs, trials=pd.DataFrame(drawn_together)))[-1][1]
    assert joint.startswith("Every method was tuned on the same candidates ")
    assert "(train.learning-rate and train.participation), but for Split learning." in joint
    unknown = conclusions(replace(made, runs=runs))[-1][1]
    assert unknown.startswith("Every method was tuned on the same candidates ")


def test_a_comparison_says_what_the_report_says():
    """All traps at once: a pooled leader, one by chance, the line of reference, an edge, and too few rounds."""
    law = replace(LAW, seeds=3, patients=2000, aucs=(*TRUTH.values(), 0.5), knows_clinic=(*LAW.knows_clinic, 0.9))
    made = study(law, [*TRUTH, "prevalence"])
    falls = {strategy: 0.02 * (strategy == "fedprox") for strategy in TRUTH}
    rounds = [
        {"run_id": run, "round": number, "loss": 0.7 - falls.get(strategy, 0.0) * number}
        for run, strategy in made.runs[["run_id", "strategy"]].itertuples(index=False)
        for number in range(21)
    ]
    made = replace(made, trials=trials_of_words(law, 0), rounds=pd.DataFrame(rounds))
    [(_, finding), (_, scope)] = conclusions(made)
    for words in ("ranks otherwise", "than chance", "No better Brier", "at the highest", "still improving"):
        assert words in finding
    found = compare(made.runs, ["strategy", "cut"], HEADLINE, {}, made.held_out, made.trials, made.rounds)
    assert found.conclusion() == f"{finding} {scope}"


def test_one_seed_and_seeds_with_their_own_patients():
    [(_, one), (_, scope)] = said(replace(CLEAR, seeds=1), ["fedavg", "split"])
    assert "Nothing can be concluded about Split learning: it shares too few seeds with it." in one
    assert "The 95 % intervals are over other patients of these clinics, for one seed alone." in scope
    assert "More seeds" not in scope
    alone = replace(CLEAR, seeds=1, aucs=(0.9, 0.8, 0.7))
    assert "hold together" not in said(alone, ["fedavg", "split", "local"])[-1][1]  # one seed gives no differences
    made = study(replace(CLEAR, fresh=True), ["fedavg", "split"])
    fresh = replace(made, held_out=replace(made.held_out, same_patients=False))
    assert "More seeds" not in conclusions(fresh)[-1][1]


def test_clinics_that_were_held_out_speak_for_others_from_five_on():
    law = replace(CLEAR, every_clinic=True, clinics=8, patients=800, by_clinic=0.05)
    made = study(law, ["fedavg", "split"], held_out="some")
    [(_, finding), (_, scope)] = conclusions(made)
    models = made.runs.drop(columns="method").merge(
        pd.DataFrame({"strategy": ["fedavg", "split"], "method": ["FedAvg", "Split learning"]})
    )
    singles, _ = over_clinics(by_clinic(made.held_out.predictions, models, "within_clinic_auc"))
    best = singles.set_index("method").loc["FedAvg"]
    low = f"{best['mean'] - best['predicted']:.3f}".replace("0.", ".")
    assert finding.startswith("At 8 clinics that took no part in training FedAvg has the highest mean AUC: .")
    assert f"expected between {low} and " in finding
    assert finding.endswith("Over clinics it is better than Split learning.")
    assert scope.startswith("No method was tuned")
    assert "hospitals" not in scope
    tried = conclusions(replace(made, trials=trials(fedavg=(1.0, 1.0, 1.0), split=(0.1, 0.1, 0.1))))[0][1]
    assert tried.endswith(
        "FedAvg did best at the highest train.learning-rate that was tried (1) in most cases: what lies "
        "beyond may do better."
    )
    central = elsewhere(models.replace({"FedAvg": "Centralised"}), made.held_out, spoken(made.runs), {"Centralised"})
    assert "Split learning has the highest mean AUC of the methods that train together" in central
    assert central.endswith("Better over clinics: Centralised.")
    anew = elsewhere(models, replace(made.held_out, same_patients=False), spoken(made.runs))
    assert anew.startswith(f"At {8 * law.seeds} clinics ")
    few = study(replace(law, clinics=4), ["fedavg", "split"], held_out="some")
    assert (
        conclusions(few)[0][1]
        == "4 held-out clinics can be scored; at least 5 are needed to say anything about others."
    )


def test_both_kinds_of_held_out_records_are_told_apart():
    law = replace(CLEAR, aucs=(0.9, 0.7, 0.8), clinics=6)
    made = study(law, ["fedavg", "split", "fedprox"])
    runs = made.runs.assign(held_out=np.where(made.runs["strategy"] == "fedprox", "a", ""))
    [(_, finding), (_, scope)] = conclusions(replace(made, runs=runs))
    assert "It is better than Split learning. At 6 clinics that took no part in training FedProx has" in finding
    assert "hospitals" not in scope


@pytest.mark.parametrize("methods", [["fedavg"], []])
def test_nothing_is_compared_with_nothing(methods):
    law = replace(CLEAR, aucs=(0.8,) * len(methods) or (0.8,))
    made = study(law, methods or ["fedavg"])
    assert conclusions(made if methods else replace(made, runs=made.runs.assign(status="failed"))) == []


def trials(**rates):
    """The rate that each strategy chose on each of three seeds, of five."""
    rows = [
        {"strategy": strategy, "cut": "", "seed": seed, "tuned.train.learning-rate": rate, "chosen": rate == best}
        for strategy, chosen in rates.items()
        for seed, best in enumerate(chosen)
        for rate in (0.01, 0.03, 0.1, 0.3, 1.0)
    ]
    table = pd.DataFrame(rows)
    return table.assign(score=0.7 + 0.1 * table["chosen"], loss=0.5)


def test_a_setting_at_the_edge_of_what_was_tried_is_named():
    tried = trials(fedavg=(1.0, 0.3, 1.0), split=(0.1, 0.01, 1.0), local=(1.0, 1.0, 0.03), fedprox=(0.01, 0.01, 0.01))
    assert list(at_the_edge(tried)) == [
        "FedAvg and Local did best at the highest train.learning-rate that was tried (1) in most cases: what lies "
        "beyond may do better.",
        "FedProx did best at the lowest train.learning-rate that was tried (0.01) in most cases: what lies beyond may "
        "do better.",
    ]
    assert list(at_the_edge(tried[tried["tuned.train.learning-rate"].isin([0.01, 1.0])])) == []
    assert list(at_the_edge(NO_TRIALS)) == []


def test_a_key_that_moves_nothing_has_no_edge():
    tried = trials(local=(0.01, 0.01, 0.01)).assign(score=0.7)
    assert list(at_the_edge(tried)) == []
    by_loss = tried.assign(loss=np.where(tried["chosen"], 0.4, 0.5))  # the lower loss decides
    assert len(list(at_the_edge(by_loss))) == 1


def test_an_edge_is_of_one_level_of_privacy():
    private, free = study(CLEAR, ["fedavg", "split"]).runs, study(CLEAR, ["fedavg", "split"], 1)
    both = pd.concat(
        [
            private.assign(run_id="p" + private["run_id"], **{"privacy.epsilon": 1.0}),
            free.runs.assign(**{"privacy.epsilon": np.inf}),
        ]
    )
    tried = pd.concat(
        [
            trials(fedavg=(1.0, 1.0, 1.0)).assign(**{"privacy.epsilon": np.inf}),
            trials(fedavg=(0.1, 0.1, 0.1)).assign(**{"privacy.epsilon": 1.0}),
        ]
    )
    predictions = free.held_out.predictions
    twice = pd.concat([predictions, predictions.assign(run_id="p" + predictions["run_id"])])
    made = replace(free, runs=both, trials=tried, held_out=replace(free.held_out, predictions=twice))
    found = dict(conclusions(made))
    assert "did best at the highest" in found["no DP"]
    assert "did best" not in found["ε = 1"]
