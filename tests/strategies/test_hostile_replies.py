"""No reply that an honest clinic would not send changes the model: it ends the run, and the error names the clinic."""

import re

import pytest
import torch
from hostile import RUNS, Opened, add_kind, array, arrays, numbers, planned, state, value
from support import bitwise

from sim.flower.client_app import client_app
from sim.flower.grid import InProcessGrid
from sim.flower.meter import Meter
from sim.flower.strategy import build_strategy
from sim.flower.wire import array_record
from sim.flower.workplace import Workplaces
from sim.methods.node_group import node_groups_of
from sim.methods.replies import ExchangeError
from sim.study.train import DivergedError, train_run

NOTHING_THERE = 10**6


def clinics_of(others):
    return {
        "another clinic": state("clinics", lambda own: [*own[:-1], others]),
        "a clinic that does not exist": state("clinics", lambda own: [*own[:-1], NOTHING_THERE]),
        "a negative clinic": state("clinics", lambda own: [*own[:-1], -1]),
        "a clinic twice": state("clinics", lambda own: [*own, own[0]]),
        "a clinic less": state("clinics", lambda own: own[:-1]),
        "no clinics": state("clinics", lambda own: None),
        "clinics as one number": state("clinics", lambda own: own[0]),
        "clinics as fractions": state("clinics", lambda own: [float(k) for k in own]),
        "clinics as text": state("clinics", lambda own: [str(k) for k in own]),
        "an assertion more": state("remark", lambda _: "all is well"),
        "a kind more": add_kind("observations"),
    }


ROWS_STATED = {
    "a row more": state("rows", lambda rows: [rows[0] + 1, *rows[1:]]),
    "a row less": state("rows", lambda rows: [rows[0] - 1, *rows[1:]]),
    "negative rows": state("rows", lambda rows: [-rows[0], *rows[1:]]),
    "rows beyond counting": state("rows", lambda rows: [2**62, *rows[1:]]),
    "rows for a lane more": state("rows", lambda rows: [*rows, 1]),
    "no rows": state("rows", lambda _: None),
    "rows as fractions": state("rows", lambda rows: [r + 0.5 for r in rows]),
}


def batch(kind):
    return {
        f"{kind} wider than the batch": array(kind, lambda t: torch.cat([t, t[:, :1]], 1)),
        f"{kind} narrower than the batch": array(kind, lambda t: t[:, 1:]),
        f"{kind} of more columns": array(kind, lambda t: torch.cat([t, t], -1)),
    }


def counts(part):
    return {
        f"too many noised steps of {part}": state(f"noised-{part}", lambda n: [n[0] + 1, *n[1:]]),
        f"too few noised steps of {part}": state(f"noised-{part}", lambda n: [n[0] - 1, *n[1:]]),
        f"negative noised steps of {part}": state(f"noised-{part}", lambda n: [-1] * len(n)),
        f"noised steps of {part} beyond counting": state(f"noised-{part}", lambda n: [2**62] * len(n)),
        f"no noised steps of {part}": state(f"noised-{part}", lambda _: None),
        f"noised steps of {part} for a lane more": state(f"noised-{part}", lambda n: [*n, n[0]]),
    }


LABELS = {
    "a label of 255": value("labels", 255),
    "a label that is no class": value("labels", 2),
    "labels as real numbers": array("labels", lambda t: t.float()),
}
FOREIGN_COUNT = {"noise that nobody asked for": state("noised-model", lambda _: [1])}
EXAMPLES = {
    "more records than there are": lambda opened: opened.metrics.update({"num-examples": 10**9}),
    "negative records": lambda opened: opened.metrics.update({"num-examples": -1}),
    "records as a fraction": lambda opened: opened.metrics.update({"num-examples": 7.5}),
    "no number of records": lambda opened: opened.metrics.pop("num-examples"),
    "a metric more": lambda opened: opened.metrics.update(accuracy=1.0),
}
LOSS = {
    "a loss that is no number": lambda opened: opened.metrics.update(train_loss=float("nan")),
    "a negative loss": lambda opened: opened.metrics.update(train_loss=-1.0),
    "no loss": lambda opened: opened.metrics.pop("train_loss"),
}
MODEL = {**arrays("arrays"), **numbers("arrays")}
SMASHED = {**arrays("smashed"), **batch("smashed")}
TAIL = {**arrays("tail-gradient"), **batch("tail-gradient"), **numbers("tail-gradient")}
NORMS = {**arrays("norms"), "negative norm": value("norms", -1.0), "nan norm": value("norms", float("nan"))}
ADAM = {
    **arrays("optimizer"),
    "a square below 0": lambda o: next(v for n, v in o.kinds["optimizer"].items() if "square" in n).fill_(-1),
    "steps below 0": lambda o: o.kinds["optimizer"]["head:steps"].fill_(-1),
    "nan in the optimiser": lambda o: o.kinds["optimizer"]["head:steps"].fill_(float("nan")),
}

TABLES = {
    ("fedavg", "arrays"): {**clinics_of(3), **MODEL, **EXAMPLES, **FOREIGN_COUNT},
    ("fedavg-dp", "arrays"): {**counts("model"), **numbers("arrays")},
    ("local-dp", None): counts("model"),
    ("v1", "smashed"): {**clinics_of(3), **ROWS_STATED, **SMASHED, **numbers("smashed"), **LABELS, **arrays("labels")},
    ("v1", "arrays"): {**clinics_of(3), **MODEL, **FOREIGN_COUNT},
    ("v1-rows", "arrays"): counts("smashed"),
    ("v1-rows", "smashed"): {**SMASHED, **ROWS_STATED},
    ("v1-labels", "arrays"): counts("labels"),
    ("v1-labels", "smashed"): LABELS,
    ("v1-16-bit", "smashed"): {**SMASHED, "infinity in 16 bits": value("smashed", 0x7C00)},
    ("v1-8-bit", "smashed"): {
        **SMASHED,
        "a block that is not finite": lambda o: o.kinds["smashed"]["smashed"][..., -1].fill_(-128),
    },
    ("v1-sparse", "smashed"): {
        **SMASHED,
        "a place twice": lambda o: o.kinds["smashed"]["smashed"][..., -2:].copy_(
            o.kinds["smashed"]["smashed"][..., -4:-2]
        ),
        "a place outside the row": lambda o: o.kinds["smashed"]["smashed"][..., -2:].fill_(1),
    },
    ("fedavg-compressed", "compressed-update"): {
        **clinics_of(3),
        **arrays("compressed-update"),
        "a block of an update that is not finite": lambda o: o.kinds["compressed-update"]["values"][..., -1].fill_(
            -128
        ),
        "a place twice": lambda o: o.kinds["compressed-update"]["places"][:, 1].copy_(
            o.kinds["compressed-update"]["places"][:, 0]
        ),
        "a place behind the last": lambda o: o.kinds["compressed-update"]["places"][:, -1].fill_(10_000),
        "a place before the first": lambda o: o.kinds["compressed-update"]["places"][:, 0].fill_(-1),
    },
    ("v1-joint", "smashed"): {**SMASHED, **ROWS_STATED},
    ("v1-joint", "tail-gradient"): TAIL,
    ("v1-joint", "norms"): {**clinics_of(3), **ROWS_STATED, **NORMS},
    ("v1-u-dp", "arrays"): {**counts("head"), **counts("tail"), **MODEL},
    ("v1-u-dp", "tail-gradient"): {**clinics_of(3), **ROWS_STATED, **TAIL},
    ("v2", "smashed"): {**clinics_of(3), **SMASHED, **numbers("smashed")},
    ("v2", "arrays"): {**clinics_of(3), **MODEL},
    ("v3", "smashed"): {**clinics_of(3), **ROWS_STATED, **LABELS, **numbers("smashed")},
    ("relay", "smashed"): {**clinics_of(3), **ROWS_STATED, **SMASHED, **numbers("smashed"), **LABELS},
    ("relay", "arrays"): {**clinics_of(3), **MODEL, **ADAM},
    ("release-once", "smashed"): {**clinics_of(3), **ROWS_STATED, **SMASHED, **LABELS, **counts("smashed")},
    ("centralised", "records"): {
        **clinics_of(3),
        **ROWS_STATED,
        **LABELS,
        **arrays("records"),
        **batch("records"),
        **numbers("records"),
    },
    ("imported", "arrays"): {**clinics_of(3), **MODEL, **EXAMPLES, **LOSS, **FOREIGN_COUNT},
    ("local", None): {**clinics_of(3), **EXAMPLES},
    ("fedavg-some", "arrays"): clinics_of(3),
    ("v2-some", "smashed"): clinics_of(3),
    ("fedavg", None): {"hello: " + n: c for n, c in clinics_of(3).items()},
}
CASES = [(*at, name) for at, table in TABLES.items() for name in table]


def tampered(change, wanted, hit):
    """Change the first reply that holds a kind of array."""

    def through(app):
        def hostile(message, context):
            reply = app(message, context)
            hello = message.metadata.message_type == "query.hello"
            right = hello if wanted == "hello" else wanted in reply.content if wanted else not hello
            if not hit and right:
                opened = Opened.of(reply.content)
                change(opened)
                opened.into(reply.content)
                hit.append(opened.config)
            return reply

        return hostile

    return through


def test_the_table_is_long():
    assert len(CASES) >= 120
    assert {run for run, _ in TABLES} == set(RUNS)


@pytest.mark.parametrize(("run", "kind", "name"), CASES)
def test_a_hostile_reply_ends_the_run(ragged, run, kind, name):
    plan, federation = planned(ragged, run)
    hit, seen = [], []
    change = TABLES[run, kind][name]
    if name.startswith("hello"):
        kind = "hello"
    watch, through = lambda server_round, _: seen.append(server_round), tampered(change, kind, hit)
    with pytest.raises((ExchangeError, DivergedError)) as caught:
        train_run(plan, federation, 2, watch=watch, through=through)
    assert hit
    assert seen == [0]  # no model of the hostile reply's round was ever looked at
    error = caught.value.__cause__ if isinstance(caught.value, DivergedError) else caught.value
    assert isinstance(error, ExchangeError)
    assert re.match(r"clinics? \d|node \d|no node hosts clinic", str(error)), str(error)


@pytest.mark.parametrize("run", RUNS)
def test_a_reply_taken_apart_and_put_together_again_passes(ragged, run):
    plan, federation = planned(ragged, run)
    untouched = train_run(plan, federation, 2).parameters
    hit = []
    kind = next(kind for name, kind in TABLES if name == run)
    passed = train_run(plan, federation, 2, through=tampered(lambda opened: None, kind, hit))
    assert bitwise(passed.parameters, untouched)
    assert hit


class HostileGrid(InProcessGrid):
    """Turns the replies to the first training messages into others."""

    turns = None

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        replies = list(super().send_and_receive(messages, timeout=timeout))
        turns = self.turns
        if turns and messages and messages[0].metadata.message_type.startswith("train"):
            self.turns = None
            return turns(replies)
        return replies


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize(
    "turns",
    [lambda replies: replies[1:], lambda replies: [*replies, replies[0]], lambda replies: []],
    ids=["a missing reply", "a reply twice", "no reply"],
)
def test_every_node_that_is_asked_answers_once(ragged, run, turns):
    plan, federation = planned(ragged, run)
    job, clinics = plan.job, len(plan.clinics)
    groups = node_groups_of(clinics, clinics if job.method.imported else 2)
    grid = HostileGrid(client_app(Workplaces(job, federation.train)), groups, {}, Meter(clinics))
    grid.turns = turns
    initial, seen = array_record(job.network.initial_parameters(job.seed)), []
    with pytest.raises(ExchangeError, match=r"did not answer|was not asked|one each is due"):
        build_strategy(job).start(
            grid, initial, plan.rounds, evaluate_fn=lambda server_round, _: seen.append(server_round)
        )
    assert seen == [0]
