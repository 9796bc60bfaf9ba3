"""Regions with patients and vertical parties of their own: SplitFed between them, vertical learning within."""

import math

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from support import JOINT, bitwise, distance, plan_of, write_csv
from torch.nn import functional
from vertical import PARTIES, TWO, Twin, scenario_of
from wire import again, differences, record, travelling, unlisted, with_record

from sim.data.at_clinics import load_records
from sim.foundation.problems import ScenarioError
from sim.methods.sampling import Sampling, draw_batches
from sim.plan.statement import privacy_statement
from sim.privacy.statement_text import statement_text
from sim.privacy.study_ledger import StudyRun, compose_study
from sim.scenario import parse_scenario
from sim.scenario.spec import expand
from sim.study.train import train_run

SIZES, COLUMNS = [50, 30, 40], [[0, 1], [2], [3, 4]]
CUTS = pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])
LACKING = [{**PARTIES[0], "regions": ["k0", "k2"]}, *PARTIES[1:]]


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("regions") / "patients.csv", sizes=SIZES, features=5)


def spec_of(csv, strategy="vertical-splitfed", cut="vanilla", *, regions=True, regions_=(), **tables):
    """Return the one run of a scenario whose regions are the table's clinics."""
    written = {**scenario_of(csv, strategy, cut, **tables), "regions": [*regions_]}
    written["data"] = {**written["data"], "exclude": [], "clinic": "clinic", "regions": regions}
    [spec] = expand(parse_scenario(written, csv.parent))
    return spec


def fedavg(spec, start, federation, join, columns):
    """Federated averaging over regions of one block-diagonal model, in plain PyTorch; regions may lack blocks."""
    offsets, model = federation.train.offsets, Twin(COLUMNS, start, join)
    sizes = np.diff(offsets)
    sampling = Sampling(False, spec.train.batch_size, spec.train.local_epochs)
    x, y = torch.tensor(federation.train.x).nan_to_num(), torch.tensor(federation.train.y)
    for server_round in range(1, spec.train.rounds + 1):
        trained = []
        for region, size in enumerate(sizes):
            own = [value.detach().clone().requires_grad_() for value in model.parameters]
            optimizer = torch.optim.SGD(own, lr=spec.train.learning_rate)
            drawn = draw_batches(sampling, spec.seed, server_round, [region], [int(size)])
            for step, rows in enumerate(drawn.rows[:, 0].tolist()):
                batch = torch.from_numpy(drawn.index[step, 0, :rows]) + int(offsets[region])
                logits = model.forward(x[batch], own, columns[region])
                optimizer.zero_grad()
                functional.binary_cross_entropy_with_logits(logits, y[batch].float()).backward()
                optimizer.step()
            trained.append([value.detach() for value in own])
        width = start["heads.0.hidden1.0.weight"].shape[1]
        for number, value in enumerate(model.parameters):
            shares = torch.zeros(len(sizes), *value.shape)
            for region, size in enumerate(sizes):
                shares[region] = float(size)
                for party in set(range(3)) - set(columns[region]) if number < 2 else ():
                    shares[region, party * width : (party + 1) * width] = 0
            shares /= shares.sum(0)
            model.parameters[number] = (shares * torch.stack([own[number] for own in trained])).sum(0).requires_grad_()
    return model


@CUTS
@pytest.mark.parametrize("join", ["concatenation", "mean"])
@pytest.mark.parametrize("parties", [PARTIES, LACKING], ids=["everywhere", "lacking"])
def test_regions_average_one_block_diagonal_model(csv, cut, join, parties):
    spec = spec_of(csv, cut=cut, options={"join": join}, parties=parties)
    plan, federation = plan_of(spec)
    start = plan.job.network.initial_parameters(spec.seed)
    there = [[0, 1, 2], [0, 1, 2] if parties is PARTIES else [1, 2], [0, 1, 2]]
    twin = fedavg(spec, start, federation, join, there)
    trained = train_run(plan, federation)
    assert distance(start, twin.by_name()) > 1e-2, "the twin did not train; the test would be blind"
    assert distance(trained.parameters, twin.by_name()) < 1e-6
    x, bounds = torch.tensor(federation.test.x).nan_to_num(), federation.test.offsets
    each = [twin.forward(x[bounds[r] : bounds[r + 1]], present=there[r]) for r in range(3)]
    logits = torch.cat(each).detach().double().sigmoid().numpy()
    assert trained.evaluations[-1].predicted[:, 1] == pytest.approx(logits, abs=1e-6)


@CUTS
def test_one_region_is_vertical_learning(tmp_path, cut):
    path = write_csv(tmp_path / "patients.csv", sizes=[50], features=5)
    plain = [
        train_run(*plan_of(spec_of(path, strategy, cut, regions=regions, train={"rounds": 2})))
        for strategy, regions in (("vertical-splitfed", True), ("vertical", True), ("vertical", False))
    ]
    assert all(bitwise(plain[0].parameters, each.parameters) for each in plain[1:])
    assert plain[0].evaluations == plain[1].evaluations == plain[2].evaluations


def test_regions_alone_are_vertical_learning_each(csv, tmp_path):
    """Nothing of one region moves another's model: without the others it is trained to the same bits."""
    trained = train_run(*plan_of(spec_of(csv, "vertical", "u-shaped", parties=LACKING)))
    assert {value.shape[0] for value in trained.parameters.values()} == {3}
    lines = csv.read_text(encoding="utf-8").splitlines()
    first = tmp_path / "first.csv"
    first.write_text("\n".join(line for line in lines if not line.startswith(("k1", "k2"))) + "\n", encoding="utf-8")
    alone = train_run(*plan_of(spec_of(first, "vertical", "u-shaped")))
    assert bitwise({n: v[:1] for n, v in trained.parameters.items()}, alone.parameters)


@CUTS
@pytest.mark.parametrize("privacy", [{"mechanism": "none"}, JOINT], ids=["plain", "joint"])
def test_nodes_and_travelling_states_change_nothing(csv, cut, privacy):
    plan, federation = plan_of(spec_of(csv, cut=cut, privacy=privacy, parties=LACKING, train={"rounds": 2}))
    alone = train_run(plan, federation)
    assert bitwise(alone.parameters, train_run(plan, federation, 3).parameters)
    assert bitwise(alone.parameters, train_run(plan, federation, 2, through=travelling()).parameters)


@pytest.mark.parametrize("strategy", ["vertical-alone", "centralised", "prevalence"])
def test_baselines_of_regions_that_lack_a_party(csv, strategy):
    plan, federation = plan_of(spec_of(csv, strategy, None, parties=LACKING))
    trained = train_run(plan, federation, 2)
    assert np.isfinite(trained.evaluations[-1].pooled["auc"])
    if strategy == "centralised":
        assert len(federation.train.y) == trained.meter.traffic["up", "labels"].sum()


# What it costs, by hand: two regions, two parties, two batches


SLOW = {"sites": ["k1"], "parties": ["a"], "latency": "50 ms", "compute": "1 MFLOP/s"}
SLOW |= {"uplink": "0.1 Mbit/s", "downlink": "0.2 Mbit/s"}
ROWS = {"k0": [20, 20], "k1": [20, 12]}


def two_by_two(tmp_path, **tables):
    path = write_csv(tmp_path / "patients.csv", sizes=[50, 40], features=5)
    settings = {"parties": TWO, "train": {"rounds": 1, "batch-size": 20}, "server": {"compute": "1 MFLOP/s"}}
    return plan_of(spec_of(path, **settings, **tables))


def test_bytes_and_seconds_of_two_regions_two_parties_and_two_batches(tmp_path):
    plan, federation = two_by_two(tmp_path, regions_=[SLOW])
    assert plan.job.facts.names == ("k0: a", "k0: b", "k1: a", "k1: b")
    heads, header, row, records = [4 * 9, 4 * 12] * 2, 512, 12, [40, 40, 32, 32]
    rows = [count * row for count in records]
    assert {key: value.tolist() for key, value in plan.traffic.items()} == {
        ("down", "model"): heads,
        ("up", "model"): heads,
        ("up", "smashed"): rows,
        ("down", "cut-gradient"): rows,
        ("up", "labels"): [0, 40, 0, 32],
        ("up", "headers"): [3 * header] * 4,
        ("down", "headers"): [3 * header] * 4,
    }
    trained = train_run(plan, federation)
    assert {key: value.tolist() for key, value in trained.meter.traffic.items()} == {
        key: value.tolist() for key, value in plan.traffic.items()
    }
    body, over = 3 * (2 * 6 * 4 + 2 * 4 * 1) / 1e6, []
    for region, sizes in ROWS.items():
        lines = [(0.010, 1e6, 2e6, 1e6), (0.001, 8e6, 8e6, 1e5)]
        lines[0] = (0.050, 1e5, 2e5, 1e6) if region == "k1" else lines[0]
        now = [late + 8 * (4 * h + header) / down for (late, _, down, _), h in zip(lines, (9, 12), strict=True)]
        for batch in sizes:
            for party, (columns, label, (late, up, _, compute)) in enumerate(zip((2, 3), (0, 1), lines, strict=True)):
                now[party] += batch * 2 * columns * 3 / compute
                now[party] += late + 8 * (batch * (row + label) + header) / up
            joined = max(now) + batch * body
            for party, (columns, (late, _, down, compute)) in enumerate(zip((2, 3), lines, strict=True)):
                now[party] = joined + late + 8 * (batch * row + header) / down + batch * 2 * columns * 3 / compute
        back = zip(now, lines, (9, 12), strict=True)
        over.append(max(t + late + 8 * (4 * h + header) / up for t, (late, up, _, _), h in back))
    averaged = 2 * 2 * (9 + 12 + 33)
    assert plan.round_seconds == pytest.approx([max(over) + averaged / 1e6])
    assert plan.server_flops == 72 * 3 * 56 + averaged


@pytest.mark.parametrize("clipping", [pytest.param("per-part", marks=pytest.mark.slow), "joint"])
def test_epsilon_of_two_regions_two_parties_and_two_batches(tmp_path, clipping):
    """A patient is in one region: its epsilon is that of its region's rate, and regions do not compose."""
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 1.5, "clip": 0.5, "delta": 1e-3, "clipping": clipping}
    plan, _ = two_by_two(tmp_path, privacy=privacy)
    for clinic, rate in zip(plan.clinics, (20 / 40, 20 / 40, 20 / 32, 20 / 32), strict=True):
        accountant = PLDAccountant()
        accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(1.5)), 2))
        assert clinic.epsilon["model-user"] == pytest.approx(accountant.get_epsilon(1e-3), rel=1e-2)
        assert clinic.epsilon["server"] == clinic.epsilon["peer-clinic"] == math.inf


def test_runs_of_both_kinds_compose_region_by_region(csv):
    """A patient is at one clinic of the one and at all parties of its region of the other, and nowhere else."""
    privacy = {"mechanism": "dp-sgd", "noise-multiplier": 3.0, "clip": 0.5, "delta": 1e-3}
    plans = [
        plan_of(spec_of(csv, name, cut, privacy=privacy, train={"batch-size": 40}))[0]
        for name, cut in (("vertical-splitfed", "vanilla"), ("fedavg", None))
    ]
    runs = [
        StudyRun.of(
            {
                "spec": plan.spec.model_dump(mode="json"),
                "plan": {"clinics": [{"name": clinic.name} for clinic in plan.clinics]},
                "row": {**plan.columns(), "status": "ok"},
                "privacy": {"releases": plan.ledger.to_json()},
            }
        )
        for plan in plans
    ]
    assert all(plan.sampled.rates.max() == 1 for plan in plans)
    assert {name for run in runs for name in run.clinics} == {"k0", "k1", "k2"}
    found = compose_study(runs)
    [outside] = [each for each in found.compositions if each.adversary == "model-user"]
    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(3.0 / math.sqrt(6)))
    assert outside.epsilon == pytest.approx(accountant.get_epsilon(1e-3), rel=5e-3)
    assert found.by_clinic


# The wire


@CUTS
def test_a_replaced_patient_moves_only_its_regions_messages(csv, one_key, cut):
    spec = spec_of(csv, cut=cut, parties=LACKING, train={"rounds": 1})
    plan, federation = plan_of(spec)
    run = record(plan, federation, 3)
    assert not unlisted(run)
    replaced = with_record(csv, spec, 0, [3.0, -2.5, 4.0, -1.5, 2.0])
    changed = again(run, spec.model_copy(update={"data": spec.data.model_copy(update={"path": replaced})}), 3)
    assert not unlisted(changed)
    assert not differences(run, changed, 0)
    moved = set()
    for one, two in zip(run.replies, changed.replies, strict=True):
        if any(not np.array_equal(one.arrays[key], two.arrays[key]) for key in one.arrays):
            moved |= {plan.job.parties.region_of[k] for k in one.clinics}
    assert moved == {0}


# Each region as a clinic


def test_a_patient_with_records_in_two_regions_is_said_to_be_in_both(csv, tmp_path):
    """Two records: both in one region, or one in each, whose releases add in squares."""
    header, *rows = csv.read_text(encoding="utf-8").splitlines()
    of_region = {name: [row for row in rows if row.startswith(name)] for name in ("k0", "k1", "k2")}
    told = [f"{row},p{number}" for name in ("k0", "k1") for number, row in enumerate(of_region[name])]
    told += [f"{row},q{number}" for number, row in enumerate(of_region["k2"])]
    path = tmp_path / "patients.csv"
    path.write_text("\n".join([f"{header},patient", *told]) + "\n", encoding="utf-8")
    data = {**scenario_of(path)["data"], "patient": "patient", "max-records-per-patient": 2}
    plan, _ = plan_of(spec_of(path, data=data, privacy=JOINT))
    statement = privacy_statement(plan, {}, finished=False)
    assert statement["patients"]["epsilon"]["model-user"] > plan.columns()["epsilon_model_user"]
    text = statement_text(statement)
    assert "and its records in other regions by themselves" in text
    assert "2 records**, in 2 of the regions at most" in text
    assert "the largest number of regions that train on one patient" in text
    assert "of the clinics" not in text


def test_horizontal_methods_have_the_same_patients_and_lack_the_same_columns(csv):
    vertical, whole = (
        spec_of(csv, s, c, parties=LACKING) for s, c in (("vertical-splitfed", "vanilla"), ("fedavg", None))
    )
    one, other = (load_records(s.data, s.clinics, s.seed, s.parties) for s in (vertical, whole))
    assert one.names == other.names == ("k0", "k1", "k2")
    for part in ("train", "test"):
        ours, theirs = getattr(one, part), getattr(other, part)
        np.testing.assert_array_equal(ours.row, theirs.row)
        np.testing.assert_array_equal(np.nan_to_num(ours.x), theirs.x)
    plan, _ = plan_of(whole)
    assert [clinic.name for clinic in plan.clinics] == ["k0", "k1", "k2"]
    assert plan.spec.clinics[0].profile == "hospital"


@pytest.mark.parametrize(
    ("tables", "what"),
    [
        ({"parties": [{**PARTIES[0], "regions": ["k9"]}, *PARTIES[1:]]}, '"k9" is no region'),
        ({"parties": [PARTIES[0], {**PARTIES[1], "regions": ["k0"]}]}, "without which no region trains"),
        ({"regions_": [{"sites": ["k9"], "profile": "rural-dsl"}]}, 'regions.0.sites: "k9" is no region'),
        ({"regions_": [{"sites": ["k0"], "profile": "rural-dsl", "parties": ["x"]}]}, '"x" is no party'),
        ({"regions_": [{"sites": ["k0"], "profile": "rural-dsl"}] * 2}, "is in two tables"),
        (
            {"regions_": [{"sites": ["k1"], "profile": "rural-dsl", "parties": ["doctor"]}]},
            'regions: "doctor" is not in k1; remove it there, or add k1 to its regions',
        ),
        (
            {"regions": False, "parties": PARTIES, "regions_": [{"sites": ["k0"], "profile": "rural-dsl"}]},
            "there are none",
        ),
        (
            {"strategy": "fedavg", "cut": None, "parties": [{**PARTIES[0], "share": 0.8}, *PARTIES[1:]]},
            "not all parties",
        ),
        ({"strategy": "vertical-alone", "cut": None, "options": {"party": "doctor"}}, "not every region has doctor"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(csv, tables, what):
    with pytest.raises(ScenarioError) as error:
        plan_of(spec_of(csv, **{"parties": LACKING, **tables}))
    [line] = error.value.problems
    assert what in line


def test_bodies_of_regions_share_the_servers_workers(csv):
    """With a worker each they work side by side; one alone serves them in turn, and is busy all the while."""
    near, plans = {"latency": "1 us", "uplink": "1 Tbit/s", "downlink": "1 Tbit/s", "compute": "1 PFLOP/s"}, []
    parties = [{**party, "profile": "hospital", **near} for party in PARTIES]
    for workers in (3, 1):
        server = {"compute": "1 kFLOP/s", "workers": workers}
        plans.append(plan_of(spec_of(csv, parties=parties, server=server, train={"rounds": 1}))[0])
    at_work = [40, 24, 32]  # training records of each region
    body, averaged = 3 * (2 * 9 * 4 + 2 * 4 * 1) / 1e3, 2 * 3 * (9 + 6 + 9 + 45) / 1e3
    assert plans[0].round_seconds == pytest.approx([max(at_work) * body + averaged], rel=1e-4)
    assert plans[1].round_seconds == pytest.approx([sum(at_work) * body + averaged], rel=1e-4)
