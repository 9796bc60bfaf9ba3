"""Edge servers by hand: seconds, bytes and epsilon of two clinics, one edge server and two batches; and bad input."""

import math
import re

import numpy as np
import pytest
from edges import BOTH, EDGES, ROWS, scenario_of, spec_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm
from simpy_clock import EventClock
from support import plan_of, write_csv
from test_recount import recounted
from two_clinics import HEAD, ROW, A, B, by_lane

from sim.foundation.problems import ScenarioError
from sim.plan.clock import ClosedFormClock
from sim.plan.load import EdgeLoad, Leg, RoundLoad
from sim.plan.queues import PlanClock
from sim.plan.statement import privacy_statement
from sim.privacy.recount import alike, seen
from sim.privacy.statement_text import statement_text
from sim.scenario import parse_scenario
from sim.scenario.clinics import ClinicResources, EdgeResources, ServerResources
from sim.scenario.spec import expand

MULTI_HOP = (
    *(Leg("clinic", 1), Leg("up", ROW), Leg("edge", 2), Leg("edge-up", ROW), Leg("server", 3)),
    *(Leg("edge-down", ROW), Leg("edge", 1), Leg("down", ROW), Leg("clinic", 2)),
)
GROUP = ClinicResources(name="E", uplink_bits_per_s=4096, downlink_bits_per_s=4096, latency_s=1, compute_flop_per_s=1)
SERVER = ServerResources(1.0, workers=4)


def round_of(legs=MULTI_HOP, home=(0, 0), batches=2, *, together=True, schedule=None, handed_on=False, middle=ROW):
    """Return a round of A and B, or of as many clinics as have a home, each with so many batches of one record."""
    clinics, edges = len(home), max(home) + 1
    rows, steps = by_lane(np.ones((batches, clinics)))
    per_edge = np.bincount(home, minlength=edges)
    return RoundLoad(
        clinics=np.arange(clinics),
        rows=rows,
        steps=steps,
        legs=legs,
        begin_bytes=HEAD,
        end_bytes=HEAD,
        turns=np.ones_like(steps),
        schedule=schedule,
        handed_on=handed_on,
        common_server_flops=4.0,
        edges=EdgeLoad(
            home=np.array(home),
            together=together,
            begin_bytes=middle,
            end_bytes=middle,
            begins=np.ones(edges, dtype=np.int64) if together else per_edge,
            ends=np.ones(edges, dtype=np.int64) if together else per_edge,
            common_flops=np.full(edges, 5.0 * together),
        ),
    )


def test_two_clinics_two_batches_and_one_edge_server():
    """V1 on the two clinics of ``two_clinics``; a message takes the edge server's link 2 s, and 1 s more to arrive.

    Their parts are at the edge server at 3, at A at 9 and at B at 13.

    A: head 10, at the edge server 13, middle 15, link 17, cloud 18, body 21, link 23, back 24, middle 25, A 28, 30.
    B: head 15, at the edge server 19, middle 21, link 23, cloud 24, body 27, link 29, back 30, middle 31, B 35, 39.
    A: 31, 34, 36, 38, 39, 42, 44, 45, 46, 49, 51; its head back at the edge server 57.
    B: 41, 45; the edge server has A until 46: middle 48, 50, 51, 54, 56, 57, 58, 62, 66; its head back 76.

    The edge server averages for 5 s, its link takes 2 + 1 s: 84. The cloud averages for 4 s.
    """
    load, edges = round_of(), (EdgeResources(GROUP, workers=1),)
    time = PlanClock((A, B), SERVER, edges).time_round(load)
    assert time.completed.tolist() == [30, 51, 39, 66]
    assert time.finish.tolist() == [57, 76]
    assert time.seconds == 88
    assert {phase: seconds.tolist() for phase, seconds in time.phases.items()} == {
        "download": [6 + 2 * 3, 10 + 2 * 4],
        "clinic": [2 * 3, 2 * 6],
        "upload": [2 * 3 + 6, 2 * 4 + 10],
        "server": [2 * 3, 2 * 3],
        "edge": [2 * 3, 2 * 3],
        "to cloud": [2 * 3, 2 * 3],
        "from cloud": [3 + 2 * 3, 3 + 2 * 3],
    }
    assert time.waiting.tolist() == [0, 1]


def test_two_workers_at_the_edge_server_and_nobody_waits():
    time = PlanClock((A, B), SERVER, (EdgeResources(GROUP, workers=2),)).time_round(round_of())
    assert (time.seconds, time.waiting.tolist()) == (87, [0, 0])


def test_clinics_share_their_own_edge_servers_link_alone():
    """Rows of 10 s on a link: B waits for A where both are at one edge server, and for nobody at its own."""
    legs = tuple(Leg(leg.place, 9 * ROW) if leg.place == "edge-up" else leg for leg in MULTI_HOP)
    for home, waits in (((0, 0), True), ((0, 1), False)):
        edges = (EdgeResources(GROUP, workers=2),) * 2
        time = PlanClock((A, B), SERVER, edges).time_round(round_of(legs, home))
        assert bool(time.waiting.sum() > 0) is waits


def test_a_relay_through_an_edge_server_is_a_sum():
    """A turn: the middle comes 2 + 1 s and the head 6 s, two batches of 21 s, and back 6 + 3 s; B's 10, 26 and 10."""
    schedule = tuple((k, s) for k in range(2) for s in range(2))
    load = round_of(together=False, schedule=schedule, handed_on=True)
    time = PlanClock((A, B), SERVER, (EdgeResources(GROUP, workers=1),)).time_round(load)
    assert time.finish.tolist() == [60, 60 + 78]
    assert time.seconds == 60 + 78 + 4


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_clock_is_that_of_events(data):
    """Three clinics at one or two edge servers, of few workers, whose legs take whole seconds."""
    home = data.draw(st.sampled_from([(0, 0, 0), (0, 1, 0), (1, 0, 0)]))
    legs = tuple(Leg(leg.place, data.draw(st.integers(1, 6)) * (ROW if leg.per_row == ROW else 1)) for leg in MULTI_HOP)
    together = data.draw(st.booleans())
    schedule = None if together else tuple((k, s) for k in range(3) for s in range(2))
    load = round_of(legs, home, together=together, schedule=schedule)
    workers, own = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    known = (A, B, A), ServerResources(1.0, workers=workers), (EdgeResources(GROUP, workers=own),) * 2
    ours, theirs = PlanClock(*known).time_round(load), EventClock(*known).time_round(load)
    assert ours.seconds == pytest.approx(theirs.seconds)
    assert ours.finish.tolist() == pytest.approx(theirs.finish.tolist())
    played = PlanClock(*known).play(load)
    assert max(span.end for span in played.spans) == pytest.approx(played.seconds)
    assert not isinstance(PlanClock(*known).closed, EventClock)
    assert isinstance(PlanClock(*known).closed, ClosedFormClock)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("edges") / "clinics.csv", sizes=(25, 25))


ONE = [{"name": "group", "clinics": ["k0", "k1"], "profile": "hospital"}]


def test_bytes_of_two_clinics_and_two_batches(csv):
    """Heads have 4 x 6 + 6 numbers, middles 6 x 5 + 5 + 5 x 4 + 4, of four bytes; rows 6, and behind the middle 4."""
    plan, _ = plan_of(spec_of(csv, edges=ONE, train={"rounds": 1}))
    records, batches = plan.job.sizes, 2 * 2
    assert [plan.job.steps(k) for k in (0, 1)] == [2, 2]
    [edge] = plan.edges
    n, head, middle = sum(records), 4 * 30, 4 * (35 + 24)
    assert edge.bytes_up == n * (4 * 4 + 1) + head + middle + 512 * (batches + 1)
    assert edge.bytes_down == n * 4 * 4 + head + middle + 512 * (batches + 1)
    assert sum(c.bytes_up for c in plan.clinics) == n * (4 * 6 + 1) + 2 * head + 512 * (batches + 2)
    assert sum(c.bytes_down for c in plan.clinics) == n * 4 * 6 + 2 * head + 512 * (batches + 2)
    # Each record: forward, and backward in parameters and inputs; and an average of two sets of head and middle.
    assert edge.flops == n * 3 * 2 * (6 * 5 + 5 * 4) + 2 * 2 * (30 + 59)


@pytest.mark.parametrize(("every", "times"), [(1, 4), (2, 2), (3, 2), (4, 1)])
def test_a_hierarchy_moves_the_whole_model_when_the_cloud_averages(csv, every, times):
    options = {"cloud-every": every}
    plan, _ = plan_of(spec_of(csv, "hierarchical-splitfed", "vanilla", ONE, options=options, train={"rounds": 4}))
    [edge] = plan.edges
    assert edge.bytes_up == edge.bytes_down == times * (4 * (30 + 59 + 5) + 512)


def gaussian_epsilon(mu, delta):
    """Return the exact epsilon of a Gaussian mechanism whose two outputs lie mu standard deviations apart."""

    def excess(epsilon):
        return norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - delta

    return brentq(excess, 0, 100)


@pytest.mark.parametrize("at", ["clinic", "edge"])
def test_who_sees_rows_without_noise_has_no_guarantee_and_who_stands_behind_it_has_one(csv, at):
    """Frozen parts in front of the noise, public labels: a row leaves once a round, sqrt(2) clips from another one.

    At the clinic noise hides it from all; at the edge server, which the hospital group trusts, from all but that.
    """
    frozen = ["head"] if at == "clinic" else ["head", "middle"]
    spec = spec_of(
        csv, edges=ONE, privacy={**ROWS, "rows-noised-at": at}, model={"freeze": frozen}, train={"rounds": 3}
    )
    plan, _ = plan_of(spec)
    expected = gaussian_epsilon(math.sqrt(3) * math.sqrt(2) / 2.0, 1e-3)
    for clinic in plan.clinics:
        found = dict(clinic.epsilon)
        edge = found.pop("edge")
        assert list(found.values()) == pytest.approx([expected] * 3, rel=1e-3)
        assert edge == (pytest.approx(expected, rel=1e-3) if at == "clinic" else math.inf)


def test_the_statement_calls_an_edge_server_that(csv):
    text = statement_text(privacy_statement(plan_of(spec_of(csv, edges=ONE))[0], {}, finished=True))
    assert "- **edge server**: whoever runs the clinic's own edge server" in text
    assert "\n| edge server | " in text
    assert not re.search(r"\bedge\b(?! server)", text.replace("rows-noised-at = edge", ""))


def test_a_middle_that_trains_in_front_of_the_noise_tells_of_records(csv):
    """The cloud is sent it every round, trained on rows without noise."""
    spec = spec_of(csv, edges=ONE, privacy={**ROWS, "rows-noised-at": "edge"}, model={"freeze": ["head"]})
    plan, _ = plan_of(spec)
    assert {a: plan.clinics[0].epsilon[a] for a in ("server", "edge")} == {"server": math.inf, "edge": math.inf}


_WITH_LABELS = ["smashed-noise", "label-rr"]
CASES = [
    *((name, "multi-hop") for name in ("splitfed-v1", "splitfed-v2", "splitfed-v3", "split")),
    *((name, "multi-hop-u-shaped") for name in ("splitfed-v1", "splitfed-v3", "split")),
    *(("hierarchical-splitfed", cut) for cut in ("vanilla", "u-shaped")),
]


@pytest.mark.parametrize("labels", ["private", "public"])
@pytest.mark.parametrize(
    "privacy",
    [
        *({"mechanism": "none"}, {**BOTH, "mechanism": "dp-sgd"}, ROWS, BOTH, {**BOTH, "rows-noised-at": "edge"}),
        {**ROWS, "mechanism": _WITH_LABELS, "label-epsilon": 1.0},
    ],
    ids=["none", "gradients", "rows", "both", "at the edge", "labels too"],
)
def test_settings_and_counts_give_the_ledgers_mechanisms_again(csv, privacy, labels):
    """The recount states who sees what a second time; the cloud never knows more of a clinic than its edge server."""
    known = {k: v for k, v in privacy.items() if privacy["mechanism"] != "dp-sgd" or not k.startswith("smashed")}
    labels = "private" if "label-epsilon" in privacy else labels
    given = known if privacy["mechanism"] == "none" else {**known, "labels": labels}
    for strategy, cut in CASES:
        if ("rows-noised-at" in privacy and "hop" not in cut) or ("label-epsilon" in privacy and "u-" in cut):
            continue
        rows_alone = privacy["mechanism"] in ("smashed-noise", _WITH_LABELS)
        ends = ["head", "tail"] if "u-" in cut else ["head"]
        model = {"cut": [1, 3, -1] if cut == "multi-hop-u-shaped" else [1, -1], "hidden": [6, 5, 4, 4]}
        model |= {"freeze": ends} if rows_alone else {}
        plan, _ = plan_of(spec_of(csv, strategy, cut, ONE, privacy=given, model=model, train={"rounds": 2}))
        method, drawn = recounted(plan)
        for k, clinic in enumerate(plan.clinics):
            views = seen(method, drawn, k)
            assert set(views) == set(clinic.epsilon)
            for adversary, view in views.items():
                ours = plan.ledger.mechanisms(adversary, k)
                assert alike(ours, view), (strategy, cut, adversary)
            assert clinic.epsilon["server"] <= clinic.epsilon["edge"] * (1 + 1e-9)


BAD = [
    ({"edges": [{**EDGES[0], "clinics": ["k0", "k1", "k9"]}]}, 'edges.0.clinics: unknown clinic "k9"; choose "k0" or'),
    ({"edges": [{**EDGES[0], "clinics": ["k0"]}]}, 'edges: clinic "k1" has no edge server; name it'),
    ({"edges": [ONE[0], {**EDGES[1], "clinics": ["k1"]}]}, 'edges: "k1" is a clinic of group and of south; name each'),
    ({"edges": [{**EDGES[0], "clinics": ["k0", "k0"]}]}, "edges.0.clinics: "),
    ({"edges": [ONE[0], ONE[0]]}, 'edges: two are called "group"; give each'),
    ({"edges": [{"name": "group", "clinics": ["k0", "k1"]}]}, "edges.0: uplink, downlink, latency, compute not given"),
    (
        {"edges": []},
        "strategies: splitfed-v1 with the cut multi-hop has servers between clinics and cloud; add [[edges]]",
    ),
    ({"strategies": [{"name": "fedavg"}]}, "strategies: none of them has a place for [[edges]]; remove those"),
    ({"strategies": [{"name": "splitfed-v1"}]}, "strategies: none of them has a place for [[edges]]; remove those"),
    (
        {"model": {"name": "mlp", "hidden": [6, 5], "cut": 1}},
        "model.cut: cut [1] has 1 of the 2 blocks with which parts",
    ),
    ({"model": {"name": "mlp", "hidden": [6, 5], "cut": [2, 1]}}, "model.cut: cut [2, 1] lies outside the model: "),
    (
        {"model": {"name": "mlp", "hidden": [6, 5], "cut": [1, 2, 3, 4]}},
        "model.cut: [1, 2, 3, 4] is no cut; give a",
    ),
    (
        {"train": {"rounds": 1, "batch-size": 8, "learning-rate": 1.0, "deadline": "1 s"}},
        "train.deadline: is not simul",
    ),
    (
        {"strategies": [{"name": "hierarchical-splitfed", "options": {"cloud-every": 0}}]},
        "strategies.options.cloud-every: 0 is no number of rounds; give a whole number from 1",
    ),
    (
        {"privacy": {**ROWS, "rows-noised-at": "edge"}, "strategies": [{"name": "hierarchical-splitfed"}]},
        'privacy.rows-noised-at: under hierarchical-splitfed no rows leave an edge server; take cut = "multi-hop"',
    ),
]


@pytest.mark.parametrize(("tables", "line"), BAD, ids=[line[:40] for _, line in BAD])
def test_bad_input_is_one_line(csv, tables, line):
    def planned():
        [plan_of(spec) for spec in expand(parse_scenario(scenario_of(csv, **{"edges": ONE, **tables}), csv.parent))]

    with pytest.raises(ScenarioError) as caught:
        planned()
    [told] = caught.value.problems
    assert told.removeprefix("scenario: ").startswith(line)


def test_a_run_without_a_place_for_edge_servers_is_the_same_run(csv):
    """Its name too: what a study says besides of others changes nothing of it."""
    alone = expand(parse_scenario(scenario_of(csv, cut="vanilla", edges=None), csv.parent))
    beside = expand(parse_scenario(scenario_of(csv, cut=["vanilla", "multi-hop"], edges=ONE), csv.parent))
    assert [spec.run_id for spec in alone] == [spec.run_id for spec in beside if spec.strategy.cut == "vanilla"]
