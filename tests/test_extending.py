"""The examples of ``docs/extending.md``: methods of a user's own, held against plain PyTorch like the built-in ones."""

import math
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from textwrap import dedent

import numpy as np
import pandas as pd
import pytest
import torch
from split_twins import (
    Place,
    SplitTwin,
    apart,
    batches_of,
    rounding,
    train_batch,
)
from support import DP_SGD, JOINT, TRADE_OFF, plain, plan_of, run_spec, write_scenario
from twins import weighted_average

from sim.foundation.problems import ScenarioError
from sim.privacy.accounting import gaussian_epsilon
from sim.scenario import load_scenario, parse_scenario
from sim.study.train import train_run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"
OWN, MOMENTUM = "every_second:METHOD", "momentum_relay:METHOD"


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    """Write the page's modules into a folder on the import path; return it."""
    folder = tmp_path_factory.mktemp("own")
    blocks = re.findall(r"^cat > (\w+\.py) <<'EOF'\n(.*?)^EOF", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    for name, code in blocks:
        (folder / name).write_text(code, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def every_second(twin: SplitTwin):
    """Thapa et al. 2022 with a body of its own for each clinic in odd rounds; stacked where the last round is one."""
    state = twin.initial()
    bodies = [state] * len(twin.records)
    for server_round in twin.rounds:
        models = []
        for k, own in batches_of(twin, server_round, twin.returning(server_round)).items():
            clinic, server = Place.build(twin, state, twin.clinic_parts), Place.build(twin, bodies[k], ("body",))
            for batch in own:
                train_batch(twin, clinic, server, batch)
            models.append((own[0].size, clinic.state(), server.state()))
            if server_round % 2:
                bodies[k] = bodies[k] | server.state()
        if models:
            state = state | weighted_average([(size, heads) for size, heads, _ in models])
        if models and server_round % 2 == 0:
            state = state | weighted_average([(size, body) for size, _, body in models])
            bodies = [state] * len(twin.records)
    own_names = {name for name in state if not torch.equal(bodies[0][name], bodies[-1][name])}
    return {n: torch.stack([b[n] for b in bodies]) if n in own_names else v[None] for n, v in state.items()}


def momentum(twin: SplitTwin):
    """Gupta & Raskar 2018 with heavy-ball momentum over rounds on the body."""
    beta = twin.spec.strategy.options.get("beta", 0.5)
    state = twin.initial()
    server, last = Place.build(twin, state, ("body",)), Place.build(twin, state, twin.clinic_parts)
    velocity = {name: torch.zeros_like(value) for name, value in server.state().items()}
    for server_round in twin.rounds:
        before = server.state()
        for turn in twin.turns(batches_of(twin, server_round, twin.order(server_round))):
            clinic = Place.build(twin, state, twin.clinic_parts)
            clinic.take_over(last)
            for batch in turn:
                train_batch(twin, clinic, server, batch)
            last = clinic
        velocity = {n: beta * v + server.state()[n] - before[n] for n, v in velocity.items()}
        for part in server.parts.values():
            part.load_state_dict({n: before[n] + velocity[n] for n in part.state_dict()})
    return {name: value[None] for name, value in (last.state() | server.state()).items()}


TWINS = {OWN: every_second, MOMENTUM: momentum}
CASES = [(OWN, cut) for cut in ("vanilla", "u-shaped")] + [(MOMENTUM, cut) for cut in ("vanilla", "u-shaped")]
SITUATIONS = {
    "plain": {},
    "adam, two local epochs": {"optimizer": "adam", "learning_rate": 0.02, "local_epochs": 2},
    "half of the clinics": {"participation": 0.5, "rounds": 5},
    "one round": {"rounds": 1},
    "dp-sgd": {"privacy": DP_SGD},
    "dp-sgd, clipped jointly": {"privacy": JOINT},
}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize(("name", "cut"), CASES)
def test_a_method_of_a_users_own_is_its_twin(ragged, name, cut, situation):
    spec = run_spec(ragged, name, cut, **{"rounds": 4, **SITUATIONS[situation]})
    plan, federation = plan_of(spec)
    ours = train_run(plan, federation).parameters
    twin = SplitTwin(spec, federation, plan.noise_multipliers, {}, {}, plan.spec.digest)
    theirs = TWINS[name](twin)
    lanes = max(value.shape[0] for value in theirs.values())
    assert apart(ours, {n: v.expand(lanes, *v.shape[1:]) for n, v in theirs.items()}) < rounding(spec)
    several = train_run(plan, federation, node_groups=3).parameters
    assert apart(ours, several) < rounding(spec)


def test_an_option_changes_the_run_and_its_identity(ragged):
    slow, quick = (run_spec(ragged, MOMENTUM, "vanilla", options={"beta": beta}) for beta in (0.0, 0.9))
    relay = run_spec(ragged, "split", "vanilla")
    (p0, federation), (p1, _), (p2, _) = plan_of(slow), plan_of(quick), plan_of(relay)
    still, moved, plain = (train_run(plan, federation).parameters for plan in (p0, p1, p2))
    assert apart(still, plain) < 1e-6 < apart(moved, plain)
    assert slow.run_id != quick.run_id


def test_averaging_less_often_is_less_work_for_the_server_and_nothing_else(ragged):
    own, v1 = (plan_of(run_spec(ragged, name, "vanilla", rounds=4))[0] for name in (OWN, "splitfed-v1"))
    assert own.traffic.keys() == v1.traffic.keys()
    assert all((own.traffic[key] == v1.traffic[key]).all() for key in own.traffic)
    body = v1.job.part("body").parameter_count()
    assert v1.server_flops - own.server_flops == 2 * (2 * 4 * body)  # two rounds of four clinics, twice a scalar


@pytest.mark.parametrize(
    ("strategy", "told"),
    [
        ("{name='every_second:NOTHING'}", "cannot be imported"),
        ("{name='nowhere:METHOD'}", "cannot be imported"),
        ("{name='every_second:averages'}", "is no Method"),
        ("{name='momentum_relay:METHOD', options={betta=0.1}}", "has no option"),
        ("{name='momentum_relay:METHOD', options={beta='much'}}", "is of another type"),
        ("{name='every_second:METHOD', order='fixed'}", "does not serve its clinics in turn"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, strategy, told):
    with pytest.raises(ScenarioError) as caught:
        load_scenario(write_scenario(tmp_path, TRADE_OFF), [f"strategies=[{strategy}]"])
    [line] = caught.value.problems
    assert told in line


@pytest.mark.usefixtures("no_vega", "no_pictures")
def test_a_study_of_ones_own_methods_has_plan_table_and_report(suture, tmp_path):
    path = write_scenario(tmp_path, TRADE_OFF)
    strategies = f'strategies=[{{name="split"}}, {{name="{OWN}", cut="u-shaped"}}, {{name="{MOMENTUM}"}}]'
    code, _, err = suture("run", path, "--out", tmp_path / "out", "--jobs", 1, "--set", strategies)
    assert code == 0, err
    runs = pd.read_parquet(tmp_path / "out" / "small" / "runs.parquet")
    assert set(runs["status"]) == {"ok"}
    assert set(runs["strategy"]) == {"split", "SplitFed, bodies every 2nd round", "Relay with momentum"}
    assert set(runs["method"]) == {"split", OWN, MOMENTUM}
    private = runs[runs["privacy.epsilon"] == 3]
    assert (private["epsilon_model_user"] <= 3).all()
    report = (tmp_path / "out" / "small" / "report.html").read_text(encoding="utf-8")
    assert "Relay with momentum" in report


# A mechanism


@pytest.mark.slow
def test_a_mechanism_of_another_distribution_is_planned_trained_stated_and_not_recounted(tmp_path, modules):
    """By hand: mu^2 of two rounds is 2 (2 / multiplier)^2, and half of it under smashed-noise, after a rectifier."""
    page = PAGE.read_text(encoding="utf-8")
    section = page[page.index("## A mechanism") : page.index("## An attack")]
    [script] = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    subprocess.run(["/bin/sh", "-euc", script], cwd=tmp_path, check=True)
    scenario = """
        name = "own"
        seeds = [0]
        data = { source = "synthetic", clinics = 3, records = 300, features = 6 }
        model = { name = "mlp", hidden = [8], cut = 1, freeze = ["head"] }
        train = { rounds = 2, batch-size = 16, learning-rate = 0.1 }
        evaluation = { reference = false }
        privacy = { mechanism = "cautious-noise", noise-multiplier = 6.0, delta = 1e-4, labels = "public" }
        [[strategies]]
        name = "splitfed-v1"
    """
    (tmp_path / "own.toml").write_text(scenario, encoding="utf-8")
    program = """
        from pathlib import Path
        from support import call_suture
        assert call_suture("run", "own.toml", "--out", "results", "--jobs", 1) == 0
        [run] = Path("results/own").glob("*/run.json")
        print(call_suture("verify", run.parent))
    """
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])},
        capture_output=True,
        text=True,
        check=True,
    )
    table = pd.read_parquet(tmp_path / "results" / "own" / "runs.parquet")
    assert table["epsilon_server"].iloc[0] == pytest.approx(gaussian_epsilon(math.sqrt(2) * 2 / 6.0, 1e-4), rel=1e-6)
    [run] = (path.parent for path in (tmp_path / "results" / "own").glob("*/run.json"))
    assert "Gaussian noise" in (run / "privacy.md").read_text(encoding="utf-8")
    assert done.stdout.splitlines()[-1] == "1"
    assert "cautious-noise is not Suture's own, so that no epsilon can be recounted" in plain(done.stdout + done.stderr)
    with pytest.raises(ScenarioError, match='"cautious:MECHANISM" does not exist'):
        parse_scenario(tomllib.loads(scenario) | {"privacy": {"mechanism": "cautious:MECHANISM"}}, tmp_path)
    assert "cautious" not in sys.modules


# An attack


@pytest.mark.slow
def test_attacks_of_a_users_own_find_what_there_is_to_find(suture, tmp_path):
    rng = np.random.default_rng(0)
    shares = (0.2, 0.5, 0.8)
    lines = [
        ",".join([f"k{k}", f"class{int(rng.random() < share)}", *(f"{v:.5f}" for v in rng.normal(size=12))])
        for k, share in enumerate(shares)
        for _ in range(60)
    ]
    header = ",".join(["clinic", "label", *(f"x{i}" for i in range(12))])
    (tmp_path / "random.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    scenario = """
        name = "own"
        seeds = [0]
        model = { name = "mlp", hidden = [64] }
        train = { rounds = 30, batch-size = 8, learning-rate = 0.3 }
        evaluation = { reference = false }
        strategies = [{ name = "fedavg" }]
        [data]
        source = "csv"
        path = "random.csv"
        clinic = "clinic"
        label = "label"
        positive = "class1"
        scaling = "none"
        [[attacks]]
        name = "biased:ATTACK"
        [[attacks]]
        name = "compared:ATTACK"
        options = { others = 2 }
    """
    (tmp_path / "own.toml").write_text(dedent(scenario), encoding="utf-8")
    code, _, err = suture("run", tmp_path / "own.toml", "--out", tmp_path / "out", "--jobs", 1)
    assert code == 0, err
    found = pd.read_parquet(tmp_path / "out" / "own" / "attacks.parquet").query("clinic == ''").set_index("measure")
    assert found.loc["sickest_clinic_rate", ["value", "chance", "adversary"]].tolist() == [1.0, 1 / 3, "server"]
    assert found.loc["auc", "low"] > 0.6, "labels of nothing but noise are remembered"
