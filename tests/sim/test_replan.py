"""A finished run on other links: the same times as a run that had them from the start, and nothing trained."""

import json

import pytest
from support import call_suture, plan_of, run_spec, write_csv

from sim.foundation.problems import ScenarioError
from sim.study.replan import Retiming
from sim.study.runner import execute

RATES = {"uplink": "1000000.0 bit/s", "downlink": "8000000.0 bit/s", "latency": "0.02 s", "compute": "1e9 FLOP/s"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replan")
    plan, _ = plan_of(run_spec(write_csv(folder / "clinics.csv"), rounds=2))
    row = execute(plan, folder / "small", {})
    return folder / "small" / row["run_id"], plan


def test_the_same_settings_give_the_recorded_time(finished):
    folder, plan = finished
    run = Retiming(folder)
    assert run.seconds([]) == run.recorded_seconds == plan.columns()["sim_seconds"]


def test_federated_averaging_by_hand(finished):
    folder, _ = finished
    run = Retiming(folder)
    settings = [f'clinics.0.{key}="{value}"' for key, value in RATES.items()] + ['server.compute="1 TFLOP/s"']
    # MLP 4-6-5-1, one logit for two classes: 30 + 35 + 6 = 71 parameters; products 24 + 30 + 5 = 59 of two FLOPs,
    # forward and twice backward but for the first layer's inputs: 2 * (3 * 59 - 24) = 306 a record. The largest clinic
    # takes longest.
    message = 8 * (4 * 71 + 512)
    records = max(json.loads((folder / "run.json").read_text())["plan"]["clinics"], key=lambda c: c["records"])
    train = records["records"] * 306 / 1e9
    one_round = 0.02 + message / 8e6 + train + 0.02 + message / 1e6 + 2 * 4 * 71 / 1e12
    assert run.seconds(settings) == pytest.approx(2 * one_round, rel=1e-12)


@pytest.mark.parametrize("key", ["train.rounds=5", "seed=1", 'clinics.0.sites=["k0"]', "privacy.clip=2", "serverx=1"])
def test_what_may_change_training_is_refused(finished, key):
    with pytest.raises(ScenarioError, match="may change what is learned"):
        Retiming(finished[0]).seconds([key])


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ('clinics.0.uplnk="1 Mbit/s"', 'clinics.0.uplnk: unknown key; did you mean "uplink"?'),
        ("server.worker=3", 'server.worker: unknown key; did you mean "workers"?'),
        ('clinics.0.memory="1 GB"', "clinics.0.memory: takes no time, so there is nothing to re-time"),
        ("clinics.0.drop-out=0.1", "clinics.0.drop-out: may change what is learned, so it cannot be re-timed"),
        ("clinics.0.uplink", 'clinics.0.uplink: has no "="; write key=value'),
    ],
)
def test_what_cannot_be_retimed_is_said_with_its_own_reason(finished, override, line):
    with pytest.raises(ScenarioError) as error:
        Retiming(finished[0]).seconds([override])
    assert [problem.startswith(line) for problem in error.value.problems] == [True]


def test_an_impossible_rate_is_one_line(finished):
    with pytest.raises(ScenarioError, match=r"clinics\.0\.uplink: .* is not positive") as error:
        Retiming(finished[0]).seconds(['clinics.0.uplink="0 Mbit/s"'])
    assert len(error.value.problems) == 1


@pytest.fixture
def swept(finished, capsys):
    def call(sweep):
        code = call_suture("replan", finished[0], "--sweep", sweep)
        told = capsys.readouterr()
        return code, [line.partition(": ")[0] for line in told.out.splitlines()], told.err

    return call


def test_the_command_sweeps(swept):
    points = ["clinics.0.uplink=1 Mbit/s", "clinics.0.uplink=10 Mbit/s"]
    assert swept("clinics.0.uplink=1 Mbit/s, 10 Mbit/s") == (0, ["as run", *points], "")


def test_a_sweep_goes_over_tables_too(swept):
    values = ["{hospital=0.5,rural-dsl=0.5}", '"hospital"']
    points = [f"clinics.0.profile={value}" for value in values]
    assert swept(f"clinics.0.profile={','.join(values)}") == (0, ["as run", *points], "")


def test_a_sweep_goes_on_behind_a_value_that_is_none(swept):
    code, lines, err = swept("clinics.0.uplink=1 Mbit/s,0 Mbit/s,2 Mbit/s")
    assert code == 2
    assert lines == ["as run", "clinics.0.uplink=1 Mbit/s", "clinics.0.uplink=2 Mbit/s"]
    assert '"0 Mbit/s" is not positive' in err


@pytest.mark.parametrize("sweep", ["clinics.0.uplink", "clinics.0.uplink=1 Mbit/s,,2 Mbit/s", "=1 Mbit/s"])
def test_a_sweep_that_is_none_is_said_before_anything_is_timed(swept, sweep):
    code, lines, err = swept(sweep)
    assert (code, lines) == (2, [])
    assert err.startswith(f'--sweep: "{sweep}" is not a key with values; write it like ')


def test_other_links_that_would_change_who_meets_the_deadline_are_refused(tmp_path):
    """On 1 Mbit/s the model takes 0.03 + 0.0064 s and more up, so that nobody meets 0.06 s; on 100 all do."""
    spec = run_spec(write_csv(tmp_path / "clinics.csv"), rounds=2)
    spec = spec.model_copy(update={"train": spec.train.model_copy(update={"deadline": 0.06})})
    plan, _ = plan_of(spec)
    assert plan.returned == (4, 4)
    folder = tmp_path / "small" / execute(plan, tmp_path / "small", {})["run_id"]
    run = Retiming(folder)
    assert run.seconds([]) == run.recorded_seconds
    faster = run.seconds(['clinics.0.latency="1 ms"'])
    assert faster == pytest.approx(run.recorded_seconds - 2 * 2 * 1.5e-3)
    with pytest.raises(ScenarioError, match=r"other clinics would come back in 2 of 2 rounds \(first in round 1\)"):
        run.seconds(['clinics.0.latency="31 ms"'])
