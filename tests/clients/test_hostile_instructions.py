"""A clinic answers nothing that the plan does not foresee, tells why without a value, and goes on as if unasked."""

import pickle
from copy import deepcopy

import pytest
import torch
from flwr.app import Context, Message, RecordDict
from hostile import Opened, add_array, add_kind, array, arrays, numbers, planned, state, value
from support import bitwise

from sim.flower.client_app import ClinicError, client_app
from sim.flower.wire import instruct
from sim.flower.workplace import Workplaces
from sim.methods.messages import INSTRUCTIONS
from sim.methods.node_group import node_groups_of
from sim.study.train import train_run

STATED = {
    "an assertion more": state("remark", lambda _: "all is well"),
    "a kind more": add_kind("observations"),
    "no clinics": state("clinics", lambda _: None),
    "clinics as fractions": state("clinics", lambda own: [float(k) + 0.5 for k in own]),
    "clinics as text": state("clinics", lambda own: [str(k) for k in own]),
    "an unknown clinic": state("clinics", lambda own: [*own, 10**6]),
    "a negative clinic": state("clinics", lambda own: [-1]),
    "another node's clinic": state("clinics", lambda own: [0 if 0 not in own else 3]),
    "a clinic twice": state("clinics", lambda own: [*own, own[0]]),
}
ROUNDS = {
    "round 0": state("server-round", lambda _: 0),
    "a round beyond the plan": state("server-round", lambda _: 3),
    "a negative round": state("server-round", lambda _: -1),
    "a round beyond counting": state("server-round", lambda _: 2**62),
    "no round": state("server-round", lambda _: None),
    "a round as text": state("server-round", lambda _: "1"),
    "a round as a truth": state("server-round", lambda _: True),
    "a round as a fraction": state("server-round", lambda _: 1.0),
}
BEGIN = {
    **STATED,
    **ROUNDS,
    "first 1": state("first", lambda _: 1),
    "first -1": state("first", lambda _: -1),
    "first beyond the round": state("first", lambda _: 10**6),
    "no first": state("first", lambda _: None),
    "steps 0": state("steps", lambda _: 0),
    "steps -1": state("steps", lambda _: -1),
    "steps as text": state("steps", lambda _: "all"),
    "a turn of another name": state("turn", lambda _: "mine"),
    "a turn named as the state": state("turn", lambda _: "own"),
    "another clinic's turn": state("turn", lambda _: "clinic-10"),
    "a turn that is a number": state("turn", lambda _: 1),
}
DURING = {
    **STATED,
    "another step": state("step", lambda s: s + 1),
    "an earlier step": state("step", lambda s: s - 1),
    "no step": state("step", lambda _: None),
    "another turn": state("turn", lambda _: "clinic-10"),
    "no turn": state("turn", lambda _: None),
    "a turn that is a number": state("turn", lambda _: 1),
    "a row more": state("rows", lambda r: [r[0] + 1, *r[1:]]),
    "negative rows": state("rows", lambda r: [-r[0], *r[1:]]),
    "no rows": state("rows", lambda _: None),
}
MODEL = {**arrays("arrays"), **numbers("arrays")}
FACTORS = {
    **arrays("clip-factors"),
    "a factor above 1": value("clip-factors", 1.001),
    "a huge factor": value("clip-factors", 1e30),
    "a factor below 0": value("clip-factors", -0.5),
    "a factor that is no number": value("clip-factors", float("nan")),
}


def rows(kind):
    wide = {
        f"{kind} wider": array(kind, lambda t: torch.cat([t, t[:, :1]], 1)),
        f"{kind} of more columns": array(kind, lambda t: torch.cat([t, t], -1)),
    }
    return {**arrays(kind), **numbers(kind), **wide}


TABLES = {
    ("fedavg", "train"): {**STATED, **ROUNDS, **MODEL, "a pull": state("proximal-mu", lambda _: 1.0)},
    ("fedavg-dp", "train"): {**ROUNDS, **MODEL},
    ("local", "train.alone"): {**STATED, **ROUNDS, "a model": add_kind("arrays")},
    ("imported", "train"): {**ROUNDS, **MODEL, "a clip below 0": state("clipping_norm", lambda _: -1.0)},
    ("v1", "train.begin"): {**BEGIN, **MODEL},
    ("v1", "train.step"): {**DURING, **rows("cut-gradient")},
    ("v1-16-bit", "train.step"): {**arrays("cut-gradient"), "infinity in 16 bits": value("cut-gradient", 0x7C00)},
    ("v1-sparse", "train.step"): {**DURING, **rows("cut-gradient")},
    ("v1-joint", "train.tail"): {**DURING, **rows("body-output")},
    ("v1-joint", "train.step"): {**DURING, **rows("cut-gradient")},
    ("v1-joint", "train.clip"): {**DURING, **FACTORS},
    ("v1-u-dp", "train.tail"): {**DURING, **rows("body-output")},
    ("v2", "train.begin"): {**BEGIN, **MODEL},
    ("v3", "train.begin"): {**BEGIN, "parts that are not the server's": add_kind("arrays")},
    ("relay", "train.begin"): {
        **BEGIN,
        **MODEL,
        **arrays("optimizer"),
        "one step of all": state("steps", lambda _: 1),
        "a square below 0": lambda o: next(v for n, v in o.kinds["optimizer"].items() if "square" in n).fill_(-1),
        "a count below 0": lambda o: o.kinds["optimizer"]["head:steps"].fill_(-1),
    },
    ("relay", "train.step"): {**DURING, **rows("cut-gradient"), "an array more": add_array("cut-gradient")},
    ("release-once", "train.records"): {**STATED, **MODEL},
    ("centralised", "train.records"): {**STATED, "a head": add_kind("arrays")},
}
# What a strategy never asks for.
FOREIGN = [
    (run, kind)
    for run, kinds in {
        "fedavg": ("train.alone", "train.records", "train.begin", "train.tail", "train.step", "train.clip"),
        "local": ("train", "train.records", "train.begin"),
        "imported": ("train.alone", "train.records", "train.begin"),
        "v1": ("train", "train.alone", "train.records", "train.tail", "train.clip"),
        "relay": ("train", "train.alone", "train.records", "train.tail", "train.clip"),
        "v1-u-dp": ("train", "train.alone", "train.records", "train.clip"),
        "release-once": ("train", "train.alone", "train.begin"),
        "centralised": ("train", "train.alone", "train.begin"),
    }.items()
    for kind in kinds
]
CASES = [(*at, name) for at, table in TABLES.items() for name in table]
REPLAYED = [*TABLES, ("v1-u-dp", "train.begin"), ("v1-u-dp", "train.step"), ("v2", "train.step"), ("v3", "train.step")]


def copied(message, message_type=None):
    """Return a message of the same content, which shares nothing with it."""
    opened, other = Opened.of(message.content), RecordDict()
    opened.into(other)
    return Message(other, message.metadata.dst_node_id, message_type or message.metadata.message_type)


def state_of(context):
    """Return all that a node's state holds, so that it can be compared."""
    arrays = {r: {n: a.numpy().tobytes() for n, a in named.items()} for r, named in context.state.array_records.items()}
    configs = {name: deepcopy(dict(record)) for name, record in context.state.config_records.items()}
    if not any(configs.get("answered", {}).get("answered", [])):
        configs.pop("answered", None)
    return arrays, configs


def refused(app, message, context, why=""):
    """Ask, and check that no answer is given, why is told, and no value with it."""
    before = state_of(context)
    with pytest.raises(ClinicError, match=rf"^refused '[a-z.]+': .*{why}") as caught:
        app(message, context)
    assert not any(sign.isdigit() for sign in str(caught.value))
    assert state_of(context) == before


def elsewhere(context):
    """Return what another process has of a node after its state has travelled there."""
    travelled = pickle.loads(pickle.dumps(context.state))  # noqa: S301 - our own bytes
    return Context(context.run_id, context.node_id, context.node_config, travelled, context.run_config)


def run_with(ragged, run, server, nodes=2):
    """Train a run of which every message passes through ``server(app, message, context)``; return its parameters."""
    plan, federation = planned(ragged, run)
    return train_run(
        plan, federation, nodes, through=lambda app: lambda message, context: server(app, message, context)
    ).parameters


@pytest.fixture(scope="module")
def untouched(ragged):
    kept = {}

    def trained(run):
        if run not in kept:
            kept[run] = train_run(*planned(ragged, run), 2).parameters
        return kept[run]

    return trained


def test_the_table_is_long():
    assert len(CASES) + len(FOREIGN) + len(REPLAYED) >= 60


@pytest.mark.parametrize(("run", "kind", "name"), CASES)
def test_a_hostile_instruction_is_not_answered_and_changes_nothing(ragged, untouched, run, kind, name):
    hit = []

    def hostile(app, message, context):
        if not hit and message.metadata.message_type == kind:
            other = copied(message)
            opened = Opened.of(other.content)
            TABLES[run, kind][name](opened)
            opened.into(other.content)
            refused(app, other, context)
            hit.append(opened)
        return app(message, context)

    assert bitwise(run_with(ragged, run, hostile), untouched(run))
    assert hit


@pytest.mark.parametrize("nth", [0, 1, 3])
@pytest.mark.parametrize(("run", "kind"), REPLAYED)
def test_what_was_answered_is_not_answered_again(ragged, untouched, run, kind, nth):
    """Neither at once, nor later in the run, nor by another process to which the node's state has travelled."""
    kept, asked = [], []
    plan, federation = planned(ragged, run)

    def replaying(app, message, context):
        if kept and kept[0][1] is context:
            refused(app, copied(kept[0][0]), context)
        again = copied(message)
        reply = app(message, context)
        if message.metadata.message_type == kind:
            asked.append(kind)
            if len(asked) > nth:
                refused(app, again, context)
                there = elsewhere(context)
                refused(client_app(Workplaces(plan.job, federation.train)), copied(again), there)
                context.state = there.state
                refused(app, copied(again), context)
                kept[:] = [(again, context)]
        return reply

    once = kind == "train.records"
    assert bitwise(run_with(ragged, run, replaying), untouched(run))
    assert kept or once


NOT_ITS_OWN = "(this strategy|no records leave|no such turn|it is not the turn's next message)"


def well_formed(job, kind, clinics):
    """Return an instruction as a strategy that has this kind would write it, with arrays of the right names."""
    initial = job.network.initial_parameters(job.seed)
    head = {name: initial[name] for name in job.parts[0].shapes()}
    turn = {"turn": "round", "step": 0, "rows": [1] * len(clinics)}
    rows = torch.zeros(len(clinics), 1, 1)
    more = {
        "train": {"server_round": 1, "model": initial},
        "train.alone": {"server_round": 1},
        "train.records": {"head": head if job.protocol.topology == "vanilla" else None},
        "train.begin": {"server_round": 1, "turn": "round", "first": 0, "steps": 1, "model": head},
        "train.tail": {**turn, "body_output": rows},
        "train.step": {**turn, "cut_gradient": rows},
        "train.clip": {**turn, "clip_factors": rows[..., 0]},
    }
    return INSTRUCTIONS[kind](clinics=clinics, **more[kind])


@pytest.mark.parametrize(("run", "kind"), FOREIGN)
def test_a_strategy_is_asked_for_nothing_that_is_not_its_own(ragged, untouched, run, kind):
    """A server of federated averaging could otherwise ask for the records themselves."""
    tried, job = [], planned(ragged, run)[0].job

    def curious(app, message, context):
        if message.metadata.message_type != "query.hello":
            tried.append(kind)
            refused(app, copied(message, kind), context)
            node = context.node_config
            own = job.in_lane_order(node_groups_of(len(job.sizes), node["num-partitions"])[node["partition-id"]])
            asked = instruct(well_formed(job, kind, own), message.metadata.dst_node_id)
            refused(app, asked, context, NOT_ITS_OWN)
        return app(message, context)

    assert bitwise(run_with(ragged, run, curious), untouched(run))
    assert tried


@pytest.mark.parametrize("run", ["v1", "v1-u-dp", "v1-joint", "v2", "v3", "relay"])
def test_a_clinic_takes_part_in_one_turn_at_a_time(ragged, untouched, run):
    """A server that opens turns and leaves them open gets no second batch, and the state does not grow."""
    begun = []

    def opening(app, message, context):
        if message.metadata.message_type != "train.begin":
            return app(message, context)
        reply = app(message, context)
        [clinic, *_] = message.content["config"]["clinics"]
        for server_round in (1, 2):
            for name in ("round", f"clinic-{clinic}"):
                other = copied(message)
                other.content["config"].update({"server-round": server_round, "turn": name, "clinics": [clinic]})
                refused(app, other, context)
        assert sum(key.endswith(".turn") for key in context.state) == 1
        begun.append(clinic)
        return reply

    assert bitwise(run_with(ragged, run, opening), untouched(run))
    assert begun


@pytest.mark.parametrize(
    ("run", "early"), [("v1-u-dp", "train.step"), ("v1-joint", "train.step"), ("v1-joint", "train.clip")]
)
def test_a_batchs_messages_come_in_their_order(ragged, untouched, run, early):
    hit = []

    def hasty(app, message, context):
        if message.metadata.message_type == "train.tail":
            opened, other = Opened.of(message.content), RecordDict()
            brings = {"train.step": "cut-gradient", "train.clip": "clip-factors"}[early]
            opened.kinds = {brings: {brings: opened.first("body-output")[1]}}
            opened.into(other)
            early_message = Message(other, message.metadata.dst_node_id, early)
            refused(app, early_message, context, "it is not the turn's next message")
            hit.append(early)
        return app(message, context)

    assert bitwise(run_with(ragged, run, hasty), untouched(run))
    assert hit


@pytest.mark.parametrize(("run", "kind"), [("fedavg-some", "train"), ("v2-some", "train.begin")])
def test_a_clinic_that_is_away_is_not_asked(ragged, run, kind):
    away, job = [], planned(ragged, run)[0].job

    def hostile(app, message, context):
        if message.metadata.message_type == kind and not away:
            away.extend({0, 1, 2, 3} - set(job.participants(1)))
            other = copied(message)
            other.content["config"]["clinics"] = away[:1]
            if kind == "train.begin":
                other.content["config"]["turn"] = f"clinic-{away[0]}"
            refused(app, other, context, "takes no part in that round")
        return app(message, context)

    run_with(ragged, run, hostile, nodes=1)
    assert away


def test_a_turn_without_messages_is_refused_elsewhere(ragged, untouched):
    """Only a server in the clinics' own process may open a turn whose batches it works on itself."""
    hit = []

    def hostile(app, message, context):
        reply = None
        if message.metadata.message_type == "train.begin":
            opening = Message(message.content, message.metadata.dst_node_id, "train.open")
            refused(app, opening, context, "the server is not in this process")
            reply = app(message, context)
            named = RecordDict({"config": copied(message).content["config"]})
            for key in {*named["config"]} - {"clinics", "turn"}:
                del named["config"][key]
            refused(app, Message(named, message.metadata.dst_node_id, "train.close"), context, "no such turn is open")
            hit.append(message)
        return reply or app(message, context)

    assert bitwise(run_with(ragged, "v1-u-dp", hostile), untouched("v1-u-dp"))
    assert hit
