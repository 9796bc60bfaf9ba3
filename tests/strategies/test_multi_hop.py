"""Multi-hop and hierarchical SplitFed against the methods that they are without edge servers, and on the wire."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from edges import BOTH, EDGES, ROWS, direct, models_of, scenario_of, spec_of
from support import (
    assert_same_results,
    bitwise,
    distance,
    plan_of,
    run_spec,
    train_spec,
    write_amounts,
    write_csv,
    write_times,
)
from test_battery import FILES, SITUATIONS
from wire import read_back, record, with_record

from sim.flower.simulation import Simulation
from sim.methods.protocol import HEADER_BYTES
from sim.privacy.mechanisms.released import row_step
from sim.report.html import write_report
from sim.report.reading import read_results
from sim.results.columns import EDGE_COLUMNS
from sim.results.verification import run_faults
from sim.scenario import parse_scenario
from sim.scenario.edges import Edge
from sim.scenario.spec import expand
from sim.study.engines import InProcess
from sim.study.planning import plan_runs
from sim.study.runner import Progress, run_study
from sim.study.train import train_run

OPTIMIZERS = pytest.mark.parametrize("optimizer", ["sgd", "adam"])
NOBODY_LOST = {"profile": "hospital"}
SOME_LOST = {"profile": "hospital", "availability": 0.7, "drop-out": 0.3}


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("edges") / "clinics.csv")


@OPTIMIZERS
@pytest.mark.parametrize("clinics", [NOBODY_LOST, SOME_LOST], ids=["all", "some"])
def test_multi_hop_v1_is_v1_with_either_cut(csv, optimizer, clinics):
    """Who holds what changes no number: copies of all parts are averaged, wherever they are."""
    how = {"train": {"optimizer": optimizer, "rounds": 3}, "clinics": [clinics]}
    ours, _ = models_of(spec_of(csv, **how))
    for at in (1, 3):
        theirs, _ = models_of(direct(csv, at=at, **how))
        assert max(distance(ours[r], theirs[r]) for r in ours) < 1e-6


U_SHAPED = {"hidden": [6, 5, 4, 4], "cut": [1, 3, -1]}


@OPTIMIZERS
@pytest.mark.parametrize("strategy", ["splitfed-v1", "split", "splitfed-v2", "splitfed-v3"])
def test_with_a_tail_it_is_the_u_shaped_method_whose_labels_stay(csv, optimizer, strategy, monkeypatch):
    train = {"optimizer": optimizer, "rounds": 2}
    spec = spec_of(csv, strategy, "multi-hop-u-shaped", model=U_SHAPED, train=train)
    run, above = both_links(monkeypatch, *plan_of(spec))
    theirs, _ = models_of(direct(csv, strategy, "u-shaped", train=train, model={**U_SHAPED, "cut": [3, -1]}))
    assert distance(run.trained.parameters, theirs[2]) < 1e-6
    assert "labels" not in {kind for reply in [*run.replies, *above] for kind in reply.kinds}


@OPTIMIZERS
@pytest.mark.parametrize("strategy", ["split", "splitfed-v2", "splitfed-v3"])
def test_what_lies_in_front_of_the_cloud_is_treated_as_one(csv, optimizer, strategy):
    """The middle is handed on, averaged or kept with the head: the method with its cut at the cloud, bit by bit."""
    train = {"optimizer": optimizer, "rounds": 3}
    ours, _ = models_of(spec_of(csv, strategy, train=train))
    theirs, _ = models_of(direct(csv, strategy, at=3, train=train))
    assert all(bitwise(ours[r], theirs[r]) for r in ours)
    assert ours[3]["hidden2.0.weight"].shape[0] == (4 if strategy == "splitfed-v3" else 1)


def hierarchical(csv, every, cut="vanilla", edges=EDGES, **tables):
    return spec_of(csv, "hierarchical-splitfed", cut, edges, options={"cloud-every": every}, **tables)


@OPTIMIZERS
@pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])
def test_averaging_at_the_cloud_every_round_is_v1(csv, optimizer, cut):
    how = {"train": {"optimizer": optimizer, "rounds": 3}, "clinics": [SOME_LOST]}
    model = {"cut": [1, -1]} if cut == "u-shaped" else {}
    ours, _ = models_of(hierarchical(csv, 1, cut, model=model, **how))
    theirs, _ = models_of(direct(csv, cut=cut, **how))
    assert max(distance(ours[r], theirs[r]) for r in ours) < 1e-6


def test_one_edge_server_is_v1_whenever_the_cloud_comes(csv):
    alone = [{"name": "all", "clinics": ["k0", "k1", "k2", "k3"], "profile": "hospital"}]
    ours, _ = models_of(hierarchical(csv, 2, edges=alone))
    theirs, _ = models_of(direct(csv))
    assert max(distance({n: v[:1] for n, v in ours[r].items()}, theirs[r]) for r in ours) < 1e-6


def test_averaging_at_the_end_alone_is_the_average_of_each_groups_own_v1(csv, tmp_path):
    ours, _ = models_of(hierarchical(csv, 3))
    expected, total = None, 0
    for edge in EDGES:
        lines = csv.read_text().splitlines()
        own = tmp_path / f"{edge['name']}.csv"
        own.write_text("\n".join([lines[0], *(s for s in lines[1:] if s.split(",")[0] in edge["clinics"])]) + "\n")
        # Batches and held-out records are drawn by a clinic's place among all, which is another one here.
        theirs = own_v1(csv, edge["clinics"])
        records = sum(size for name, size in zip(*sizes_of(csv), strict=True) if name in edge["clinics"])
        weighted = {name: value.double() * records for name, value in theirs.items()}
        expected = weighted if expected is None else {n: expected[n] + weighted[n] for n in weighted}
        total += records
    assert distance(ours[3], {name: value / total for name, value in expected.items()}) < 1e-6
    between = ours[2]
    assert torch.equal(between["output.weight"][0], between["output.weight"][2])
    assert not torch.equal(between["output.weight"][0], between["output.weight"][1])


def sizes_of(csv):
    plan, _ = plan_of(direct(csv))
    return plan.job.facts.names, plan.job.sizes


def own_v1(csv, clinics):
    """Run V1 with some of the clinics alone: the others are away in every round."""
    plan, federation = plan_of(direct(csv))
    there = [k for k, name in enumerate(plan.job.facts.names) if name in clinics]
    attended = {r: plan.job.attendance(r) for r in (1, 2, 3)}
    attended = {
        r: type(one).of(there, [one.batches_of(k) for k in there], [True] * len(there)) for r, one in attended.items()
    }
    simulation, models = Simulation(replace(plan.job, attended=attended), federation.train), {}
    simulation.run(lambda server_round, model: models.update({server_round: model}))
    return models[3]


LABELS = {**ROWS, "mechanism": ["smashed-noise", "label-rr"], "label-epsilon": 1.0, "labels": "private"}


def test_randomised_labels_pass_through_edge_servers(csv):
    for strategy, cut in (("splitfed-v1", "multi-hop"), ("hierarchical-splitfed", "vanilla")):
        spec = spec_of(csv, strategy, cut, privacy=LABELS, model={"freeze": ["head"]}, train={"rounds": 2})
        plan, federation = plan_of(spec)
        assert train_run(plan, federation).meter.noised_steps["labels"].tolist() == list(plan.sampled.steps)
        epsilons = {adversary: value for k in plan.clinics for adversary, value in k.epsilon.items()}
        assert len(set(epsilons.values())) == 1
        assert math.isfinite(epsilons["edge"])


@pytest.mark.parametrize(
    "privacy", [{"mechanism": "none"}, BOTH, {**BOTH, "rows-noised-at": "edge"}], ids=["none", "both", "edge"]
)
@pytest.mark.parametrize(
    ("strategy", "cut"),
    [
        *((strategy, "multi-hop") for strategy in ("splitfed-v1", "splitfed-v2", "splitfed-v3", "split")),
        *((strategy, "multi-hop-u-shaped") for strategy in ("splitfed-v1", "splitfed-v3", "split")),
    ],
)
def test_every_byte_and_noised_step_is_the_plans(csv, strategy, cut, privacy):
    """Training holds what crossed on both links, and what was noised where, against the plan."""
    train, model = {"rounds": 2, "optimizer": "adam"}, U_SHAPED if "u-" in cut else {}
    spec = spec_of(csv, strategy, cut, train=train, model=model, privacy=privacy, clinics=[SOME_LOST])
    noised = {"head", "middle", "body", "smashed"} | ({"tail", "tail-gradient"} if "u-" in cut else set())
    assert set(train_spec(spec).meter.noised_steps) == (noised if "delta" in privacy else set())


@pytest.mark.parametrize("frozen", ["head", "middle"])
@pytest.mark.parametrize(("strategy", "cut"), [("splitfed-v1", "multi-hop"), ("splitfed-v3", "multi-hop-u-shaped")])
def test_noised_steps_are_counted_where_one_part_in_front_of_the_cloud_is_frozen(csv, strategy, cut, frozen):
    model = {**(U_SHAPED if "u-" in cut else {}), "freeze": [frozen]}
    privacy = {key: value for key, value in BOTH.items() if not key.startswith("smashed")} | {"mechanism": "dp-sgd"}
    spec = spec_of(csv, strategy, cut, train={"rounds": 2}, model=model, privacy=privacy, clinics=[SOME_LOST])
    parts = {"head", "middle", "body"} | ({"tail"} if "u-" in cut else set())
    assert set(train_spec(spec).meter.noised_steps) == parts - {frozen}


def both_links(monkeypatch, plan, federation):
    """Train a run and keep every reply: of the clinics, and of the edge servers."""
    from sim.flower import simulation

    above = []

    def watched(servers, app=simulation.edge_app):
        inner = app(servers)

        def respond(message, context):
            reply = inner(message, context)
            above.append(read_back(reply, message.metadata.message_type, 1))
            return reply

        return respond

    monkeypatch.setattr(simulation, "edge_app", watched)
    return record(plan, federation), [reply for reply in above if reply.arrays]


@pytest.mark.parametrize("at", ["clinic", "edge"])
def test_each_byte_on_the_second_link_is_a_release_of_the_ledger(csv, one_key, monkeypatch, at):
    privacy = {**BOTH, "noise-multiplier": 50.0, "smashed-noise-multiplier": 3.0, "rows-noised-at": at}
    spec = spec_of(csv, privacy=privacy, train={"rounds": 1})
    plan, federation = plan_of(spec)
    run, above = both_links(monkeypatch, plan, federation)
    row = {0: "int16", 1: "float32"}
    below = {str(v.dtype) for r in run.replies for (kind, _), v in r.arrays.items() if kind == "smashed"}
    assert below == {row[at == "edge"]}
    assert {k for r in above for k in r.kinds} == {"smashed", "labels", "arrays"}
    assert all(r.arrays["smashed", "smashed"].dtype == row[at == "clinic"] for r in above if "smashed" in r.kinds)
    # The plan's bytes, counted anew: each clinic's rows in messages of their own, and an edge server's parameters once.
    counted = np.zeros(2, dtype=int)
    home = plan.job.edges.home
    for reply in above:
        if "arrays" in reply.kinds:
            counted[home[reply.clinics[0]]] += HEADER_BYTES + sum(v.nbytes for v in reply.arrays.values())
            continue
        for rows, k in zip(reply.rows, reply.clinics, strict=True):
            own = sum(v[0, 0].nbytes for v in reply.arrays.values())
            counted[home[k]] += HEADER_BYTES + rows * own
    assert counted.tolist() == [edge.bytes_up for edge in plan.edges]
    # Another record of a clinic changes what its own edge server sends, and nothing of the other's.
    other = with_record(csv, spec, 1, [3.0, -2.5, 4.0, -1.5])
    _, changed = both_links(monkeypatch, *plan_of(spec_of(other, privacy=privacy, train={"rounds": 1})))
    first = [(one, new) for one, new in zip(above, changed, strict=True)][:2]
    differ = {
        home[one.clinics[0]] for one, new in first if any((one.arrays[k] != new.arrays[k]).any() for k in one.arrays)
    }
    assert differ == {home[1]}


def test_rows_leave_the_edge_server_with_the_noise_that_the_ledger_says(csv, one_key, monkeypatch):
    """Of a first batch: the noise on what the middle made of it, in standard deviations, is of deviation 1."""
    found = {}
    for loud in (0.0, 3.0):
        privacy = {**ROWS, "noise-multiplier": loud, "rows-noised-at": "edge"}
        plan, federation = plan_of(spec_of(csv, privacy=privacy, train={"rounds": 1, "batch-size": 64}))
        _, above = both_links(monkeypatch, plan, federation)
        found[loud] = {
            k: r.arrays["smashed", "smashed"][i, : r.rows[i]] for r in above if r.rows for i, k in enumerate(r.clinics)
        }
    scale = 3.0 * ROWS["clip"]
    noise = np.concatenate(
        [(found[3.0][k] * row_step(scale, ROWS["clip"]) - found[0.0][k]).ravel() / scale for k in found[0.0]]
    )
    assert np.std(noise) == pytest.approx(1, rel=5 / math.sqrt(2 * noise.size))
    assert max(np.linalg.norm(rows, axis=-1).max() for rows in found[0.0].values()) <= ROWS["clip"] * (1 + 1e-6)


def test_frozen_parts_in_front_of_the_noise_stay_as_they_were(csv):
    privacy = {**ROWS, "rows-noised-at": "edge"}
    spec = spec_of(csv, privacy=privacy, model={"freeze": ["head", "middle"]}, train={"rounds": 2})
    plan, federation = plan_of(spec)
    trained = train_run(plan, federation)
    start = plan.job.network.initial_parameters(plan.job.seed)
    same = {name for name, value in trained.parameters.items() if torch.equal(value, start[name])}
    assert same == {n for part in ("head", "middle") for n in plan.job.part(part).shapes()}


# The situations of the battery, and a whole study


def through(path, strategy, cut, options=None, **how):
    """Return one run of the battery's small scenario with two edge servers, of ragged or single clinics."""
    names = sorted({line.split(",")[0] for line in path.read_text().splitlines()[1:]})
    edges = [{"name": "north", "clinics": names[:1], "profile": "hospital"}]
    edges += [{"name": "south", "clinics": names[1:], "profile": "hospital"}] if names[1:] else []
    model = {"hidden": [6, 5, 4], "cut": [1, 3], **how.pop("model", {})}
    spec = run_spec(path, "splitfed-v1", "vanilla", model=model, **how)
    own = {"name": strategy, "cut": cut, "options": options or {}, "order": spec.strategy.order}
    own |= {"order": "random", "alternate": "clinic"} if strategy == "split" else {}
    return spec.model_copy(
        update={
            "edges": tuple(Edge.model_validate(edge) for edge in edges),
            "strategy": spec.strategy.model_copy(update=own),
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("situation", [s for s in SITUATIONS if "jointly" not in s])
def test_every_situation_of_the_battery(tmp_path, situation):
    """With every byte and noised step as planned; where nothing is noised, with the numbers of V1 and of the relay."""
    name, how = SITUATIONS[situation]
    writer = {"times": write_times, "amounts": write_amounts}.get(name)
    path = tmp_path / "clinics.csv"
    writer(path) if writer else write_csv(path, **FILES[name])
    for strategy, cut, options, direct_to in (
        ("splitfed-v1", "multi-hop", None, "splitfed-v1"),
        ("split", "multi-hop", None, "split"),
        ("hierarchical-splitfed", "vanilla", {"cloud-every": 1}, "splitfed-v1"),
        ("hierarchical-splitfed", "vanilla", {"cloud-every": 2}, None),
    ):
        spec = through(path, strategy, cut, options, **how)
        ours = train_spec(spec).parameters
        if direct_to is None or "privacy" in how or "smashed_top_k" in how:
            continue
        turns = {"order": "random", "alternate": "clinic"} if direct_to == "split" else {}
        alone = spec.strategy.model_copy(update={"name": direct_to, "cut": "vanilla", "options": {}, **turns})
        theirs = train_spec(spec.model_copy(update={"edges": (), "strategy": alone})).parameters
        assert distance(ours, theirs) < 2e-5, strategy


@pytest.mark.slow
def test_a_study_is_verified_resumed_and_told(csv, tmp_path):
    tables = scenario_of(csv, privacy=ROWS, model={"freeze": ["head"]}, train={"rounds": 2})
    tables["strategies"].append({"name": "hierarchical-splitfed", "options": {"cloud-every": 2}})
    plans = list(plan_runs(expand(parse_scenario(tables, tmp_path))))

    def run(out):
        run_study(plans, [p.spec.run_id for p in plans], out, InProcess(), Progress(*[lambda *_: None] * 2))
        return out / "edges"

    folder, other = run(tmp_path / "one"), run(tmp_path / "other")
    gone = other / plans[0].spec.run_id
    shutil.rmtree(gone)
    assert_same_results(folder, run(tmp_path / "other"))
    for plan in plans:
        record = json.loads((folder / plan.spec.run_id / "run.json").read_text(encoding="utf-8"))
        assert run_faults(folder / plan.spec.run_id, record) == []
        record["plan"]["clinics"][0]["epsilon"]["edge"] /= 2
        assert any("epsilon.edge" in fault for fault in run_faults(folder / plan.spec.run_id, record))
        record = json.loads((folder / plan.spec.run_id / "run.json").read_text(encoding="utf-8"))
        record["plan"]["edge-counts"]["up model"][0] += 1
        assert any("edge 0, up model" in fault for fault in run_faults(folder / plan.spec.run_id, record))
    page = write_report(read_results(folder), folder).read_text(encoding="utf-8")
    assert "Edge server" in page
    assert set(pd.read_parquet(folder / "runs.parquet")) >= set(EDGE_COLUMNS)
