import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.foundation.problems import ScenarioError
from sim.scenario import parse_scenario
from sim.scenario.spec import RESULTS_VERSION, RunSpec, digest_of, expand

BASE = """
name = "study"
seeds = [3, 1]
[data]
source = "heart-disease"
[model]
name = "mlp"
cut = [1, -1]
[evaluation]
reference = false
[train]
rounds = 30
batch-size = 16
learning-rate = 0.1
[privacy]
mechanism = "dp-sgd"
delta = 1e-4
[[strategies]]
name = "splitfed-v1"
cut = ["u-shaped", "vanilla"]
[[strategies]]
name = "fedavg"
[sweep]
"privacy.epsilon" = [8, inf]
"train.rounds" = [2, 1]
"""
CSV = {"source": "csv", "label": "y", "clinic": "c", "features": ["x"], "scaling": "none"}


def scenario(folder=Path(), **tables):
    return parse_scenario(tomllib.loads(BASE) | tables, folder)


def test_order_is_strategies_cuts_sweep_seeds():
    runs = [
        (run.strategy.name, run.strategy.cut, *run.swept.values(), run.train.rounds, run.seed)
        for run in expand(scenario())
    ]
    assert runs == [
        (name, cut, epsilon, rounds, rounds, seed)
        for name, cut in (("splitfed-v1", "u-shaped"), ("splitfed-v1", "vanilla"), ("fedavg", None))
        for epsilon in (8, math.inf)
        for rounds in (2, 1)
        for seed in (3, 1)
    ]


def test_infinite_epsilon_is_no_mechanism_but_stays_among_the_swept():
    for run in expand(scenario()):
        if run.swept["privacy.epsilon"] == math.inf:
            assert (run.privacy.mechanism, run.privacy.epsilon) == ("none", None)
        else:
            assert (run.privacy.mechanism, run.privacy.epsilon) == ("dp-sgd", 8.0)


def test_without_a_sweep_infinite_epsilon_is_no_mechanism_too():
    [run, _] = expand(
        scenario(
            sweep={},
            strategies=[{"name": "local"}],
            privacy={"mechanism": "dp-sgd", "delta": 0.1, "epsilon": math.inf},
        )
    )
    assert (run.privacy.mechanism, run.swept) == ("none", {})


def test_json_round_trip_is_exact():
    clinics = [{"profile": "rural-dsl", "uplink": "3.3 Mbit/s", "latency": "0.1 ms"}]
    imported = [
        {"name": "flwr.serverapp.strategy.FedAdam", "options": {"eta": 0.1, "n": 1, "on": True, "top": math.inf}}
    ]
    runs = expand(scenario(clinics=clinics, strategies=imported))
    noiseless = {"mechanism": "dp-sgd", "delta": 0.1, "noise-multiplier": 0, "clip": math.inf}
    runs += expand(scenario(privacy=noiseless, sweep={}))
    for run in runs:
        text = run.model_dump_json()
        back = RunSpec.model_validate_json(text)
        assert back == run
        assert back.run_id == run.run_id
        assert repr(back) == repr(run)  # 1, 1.0 and true stay apart
        assert "Infinity" not in text


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_nan=False)
        | st.text().filter(lambda t: t not in {"inf", "-inf"}),
        max_size=3,
    )
)
def test_json_round_trip_of_any_options(options):
    [run, *_] = expand(scenario(strategies=[{"name": "a.b", "options": options}]))
    assert repr(RunSpec.model_validate_json(run.model_dump_json())) == repr(run)


def test_run_ids_are_distinct_and_do_not_depend_on_the_study():
    ids = [run.run_id for run in expand(scenario())]
    assert len(set(ids)) == len(ids) == 24
    assert all(len(run_id) == 16 and set(run_id) <= set("0123456789abcdef") for run_id in ids)
    assert [run.run_id for run in expand(scenario(name="other"))] == ids


def test_run_id_does_not_depend_on_the_order_of_keys():
    forth = {"privacy.epsilon": [1], "train.rounds": [2]}
    back = dict(reversed(forth.items()))
    assert [run.run_id for run in expand(scenario(sweep=forth))] == [run.run_id for run in expand(scenario(sweep=back))]


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"source": "heart-disease", "test-share": 0.3}},
        {"model": {"name": "mlp", "cut": 1}},
        {"train": {"rounds": 30, "batch-size": 16, "learning-rate": 0.2}},
        {"server": {"workers": 2}},
        {"clinics": [{"profile": "rural-dsl"}]},
        {"privacy": {"mechanism": "dp-sgd", "delta": 1e-5}},
    ],
)
def test_run_id_follows_every_table(change):
    assert not {run.run_id for run in expand(scenario())} & {run.run_id for run in expand(scenario(**change))}


def test_run_id_knows_of_weight_decay_and_schedule_where_they_do_something():
    [run, *_] = expand(scenario())
    settings = run.model_dump(mode="json")
    before = {key: value for key, value in settings["train"].items() if key not in ("weight-decay", "schedule")}
    known = run.model.public_digest(), {}, RESULTS_VERSION
    assert digest_of(settings, None, *known) == digest_of({**settings, "train": before}, None, *known)
    for key, value in {"weight-decay": 0.1, "schedule": "cosine"}.items():
        assert digest_of({**settings, "train": {**before, key: value}}, None, *known) != digest_of(
            settings, None, *known
        )


def test_run_id_follows_the_results_version():
    [run, *_] = expand(scenario())
    settings = run.model_dump(mode="json")
    data = run.data.sha256() if "path" in settings["data"] else None
    found = [digest_of(settings, data, run.model.public_digest(), {}, RESULTS_VERSION + more) for more in (0, 1)]
    assert run.digest == found[0] != found[1]


def test_run_id_is_the_same_in_every_process():
    [run, *_] = expand(scenario())
    code = (
        "import sys; from sim.scenario.spec import RunSpec; print(RunSpec.model_validate_json(sys.stdin.read()).run_id)"
    )
    for hash_seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=run.model_dump_json(),
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout.strip() == run.run_id


def test_run_id_follows_the_bytes_of_a_data_file_and_not_its_place(tmp_path):
    def run_id(name):
        [run, *_] = expand(scenario(tmp_path, data=CSV | {"path": name}))
        return run.run_id

    (tmp_path / "a.csv").write_text("c,y,x\n1,1,1\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("c,y,x\n1,1,1\n", encoding="utf-8")
    (tmp_path / "c.csv").write_text("c,y,x\n1,1,2\n", encoding="utf-8")
    assert run_id("a.csv") == run_id("b.csv") != run_id("c.csv")
    with pytest.raises(ScenarioError) as caught:
        run_id("d.csv")
    assert caught.value.problems == (f"scenario: data.path: {tmp_path / 'd.csv'} does not exist; check the path",)


def test_combinations_that_cannot_be_run_are_named():
    swept = {"privacy.noise-multiplier": [0, 1], "privacy.clip": [math.inf, 1]}
    with pytest.raises(ScenarioError) as caught:
        expand(scenario(sweep=swept))
    assert caught.value.problems == (
        "scenario: sweep.privacy.clip: inf is only for noise-multiplier = 0; give a finite norm such as 1.0",
    )


def test_swept_units_and_columns_reach_their_tables(tmp_path):
    runs = expand(
        scenario(
            tmp_path,
            data=CSV | {"path": "a.csv"},
            sweep={"server.compute": ["1 TFLOP/s", "2 TFLOP/s"], "data.missing.x": [0, "drop"], "privacy.epsilon": [1]},
            strategies=[{"name": "local"}],
            seeds=[0],
        )
    )
    assert [(run.server.compute, run.data.missing) for run in runs] == [
        (1e12, {"x": 0.0}),
        (1e12, {"x": "drop"}),
        (2e12, {"x": 0.0}),
        (2e12, {"x": "drop"}),
    ]
    assert runs[0].swept == {"server.compute": "1 TFLOP/s", "data.missing.x": 0, "privacy.epsilon": 1}
    assert runs[0].data.path == tmp_path / "a.csv"
