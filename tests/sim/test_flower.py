"""Flower's private names, arrays without copies, and the in-process grid."""

import importlib
import pickle

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from support import plan_of, run_spec

from sim.flower.exchange import in_order
from sim.flower.grid import InProcessGrid
from sim.flower.internals import TensorArray, as_tensor, empty_run
from sim.flower.meter import Meter
from sim.flower.wire import array_record, tensors_in
from sim.methods.messages import Reply
from sim.methods.replies import AbsentError, ExchangeError, hosted_clinics
from sim.study.train import train_run

TENSORS = {
    "matrix": torch.randn(2, 3),
    "scalar": torch.tensor(1.5),
    "empty": torch.empty(0, 4),
    "double": torch.randn(3, dtype=torch.float64),
    "labels": torch.tensor([[0, 1, 255]], dtype=torch.uint8),
    "steps": torch.arange(4),
    "transposed": torch.randn(2, 5).T,
    "slice": torch.randn(6, 4)[1:3, :2],
    "leaf": torch.randn(3, requires_grad=True),
}
BOTH = pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)


def content(kinds, config):
    return RecordDict(
        {name: array_record(tensors) for name, tensors in kinds.items()} | {"config": ConfigRecord(config)}
    )


def tensors(message, kind):
    return tensors_in(message.content[kind])


# Private names


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("flwr.supercore.run", "Run"),
        ("flwr.supercore.run", "Run.create_empty"),
        ("flwr.supercore.task_identity", "TaskIdentity"),
        ("flwr.supercore.task_identity", "TaskIdentity._run_id"),
        ("flwr.supercore.task_identity", "TaskIdentity._node_id"),
        ("flwr.supercore.task_identity", "TaskIdentity._task_id"),
        ("flwr.supercore.inflatable.inflatable_object", "get_all_nested_objects"),
        ("flwr.supercore.inflatable.inflatable_utils", "inflatable_class_registry"),
    ],
)
def test_private_names_of_flower_are_where_they_were(module, name):
    moved = f"this release of flwr moved {module}.{name}: adapt sim/flower/internals.py"
    try:
        found = importlib.import_module(module)
    except ImportError:
        pytest.fail(moved)
    for step in name.split("."):
        assert hasattr(found, step), moved
        found = getattr(found, step)


def test_messages_keep_their_identifier_where_the_grid_puts_it(grid_of):
    grid_of(echo)
    message = Message(RecordDict(), 2, "query.hello")
    assert "_message_id" in message.metadata.__dict__, "flwr keeps message ids elsewhere: adapt sim/flower/internals.py"
    message.metadata.__dict__["_message_id"] = "17"
    assert message.metadata.message_id == "17"
    assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "17"


@pytest.mark.parametrize("kind", [ArrayRecord, ConfigRecord, RecordDict])
def test_records_keep_their_values_where_they_are_filled(kind):
    moved = "flwr keeps a record's values elsewhere: adapt sim/flower/internals.py"
    assert kind().__dict__.get("_data") == {}, moved


def test_setting_the_identity_is_what_messages_read(grid_of):
    grid = grid_of(echo)
    message = Message(RecordDict(), 2, "query.hello")
    assert message.metadata.run_id == grid.run.run_id, "flwr reads the run elsewhere: adapt sim/flower/internals.py"
    assert message.metadata.src_node_id == 1, "flwr reads the sender elsewhere: adapt sim/flower/internals.py"


def test_an_empty_run_has_its_identifier_only():
    assert empty_run(12).run_id == 12


# Arrays


@BOTH
def test_a_tensor_array_says_what_an_ordinary_array_says(tensor):
    ours, plain = TensorArray(tensor), Array(tensor.detach().numpy())
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (plain.dtype, plain.shape, plain.stype, plain.data)
    np.testing.assert_array_equal(ours.numpy(), plain.numpy())
    assert isinstance(ours, Array)
    assert not as_tensor(ours).requires_grad


@BOTH
def test_pickling_makes_it_an_ordinary_array(tensor):
    copy = pickle.loads(pickle.dumps(TensorArray(tensor)))  # noqa: S301 - our own bytes
    assert type(copy) is Array
    assert torch.equal(as_tensor(copy), tensor)
    assert copy == Array(tensor.detach().numpy())


def over_the_wire(thing):
    """Take an object apart and put it together as Flower's link does."""
    contents = {object_id: part.deflate() for object_id, part in get_all_nested_objects(thing).items()}
    return inflate_object_from_contents(thing.object_id, contents)


@BOTH
def test_flowers_own_encoding_makes_it_an_ordinary_array(tensor):
    array = over_the_wire(TensorArray(tensor))
    assert type(array) is Array
    assert array == Array(tensor.detach().numpy())
    assert array.object_id == over_the_wire(Array(tensor.detach().numpy())).object_id


def test_a_whole_message_survives_the_wire(grid_of):
    grid_of(echo)
    message = Message(
        content({"arrays": TENSORS, "smashed": {"smashed": TENSORS["matrix"]}}, {"rows": [2]}), 2, "train"
    )
    message.metadata.__dict__["_message_id"] = "1"
    arrived = over_the_wire(message)
    assert all(type(array) is Array for record in arrived.content.array_records.values() for array in record.values())
    assert list(arrived.content["arrays"]) == list(TENSORS)
    for name, tensor in tensors(arrived, "arrays").items():
        assert torch.equal(tensor, TENSORS[name])
        assert tensor.dtype == TENSORS[name].dtype
    assert arrived.content["config"] == {"rows": [2]}


@BOTH
def test_a_record_keeps_the_tensor_itself(tensor):
    record = ArrayRecord()
    record["x"] = TensorArray(tensor)
    assert as_tensor(record["x"]).data_ptr() == tensor.data_ptr()
    through = tensors_in(RecordDict({"arrays": array_record({"x": tensor})})["arrays"])["x"]
    assert through.data_ptr() == tensor.data_ptr()
    assert through.shape == tensor.shape
    assert through.stride() == tensor.stride()


def test_the_bytes_are_made_when_they_are_asked_for():
    tensor = torch.zeros(3)
    array = TensorArray(tensor)
    tensor += 1
    np.testing.assert_array_equal(Array(array.dtype, array.shape, array.stype, array.data).numpy(), [1, 1, 1])


def test_an_ordinary_array_is_read_too():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(as_tensor(Array(values)).numpy(), values)


# The grid


def echo(message, context):
    """Answer with the node's clinics and whatever array came."""
    reply = RecordDict({"config": ConfigRecord({"node": context.node_id, **context.node_config})})
    for kind, record in message.content.array_records.items():
        reply[kind] = record
    return Message(reply, reply_to=message)


@pytest.fixture
def grid_of():
    return lambda app, node_groups=((0, 1), (2,), (3, 4, 5)): InProcessGrid(app, node_groups, {"k": 1}, Meter(6))


def ask(node, **kinds):
    return Message(RecordDict(dict(kinds)), node, "query.hello")


def test_replies_come_sorted_by_node_whatever_the_order_of_the_messages(grid_of):
    grid = grid_of(echo)
    nodes = list(grid.get_node_ids())
    assert nodes == sorted(nodes)
    assert len(nodes) == 3
    for order in (nodes, nodes[::-1], [nodes[1], nodes[2], nodes[0]]):
        replies = list(grid.send_and_receive([ask(node) for node in order]))
        assert [reply.metadata.src_node_id for reply in replies] == nodes
        assert [reply.content["config"]["partition-id"] for reply in replies] == [0, 1, 2]
        assert all(reply.content["config"]["num-partitions"] == 3 for reply in replies)


def test_pushed_messages_are_pulled_once_by_their_ids(grid_of):
    grid = grid_of(echo)
    nodes = list(grid.get_node_ids())
    ids = list(grid.push_messages([ask(node) for node in nodes]))
    assert len(set(ids)) == 3
    first = list(grid.pull_messages(ids[:1]))
    assert [reply.metadata.src_node_id for reply in first] == nodes[:1]
    assert first[0].metadata.reply_to_message_id == ids[0]
    assert len(list(grid.pull_messages(ids))) == 2
    assert list(grid.pull_messages(ids)) == []


def test_an_unknown_node_gives_an_error_reply(grid_of):
    grid = grid_of(echo)
    [known, *_] = grid.get_node_ids()
    replies = list(grid.send_and_receive([ask(known), ask(999)]))
    assert [reply.has_error() for reply in replies] == [False, True]
    assert replies[1].error.reason == "no such node"


def test_an_exception_at_a_client_becomes_an_error_reply_and_the_others_answer(grid_of):
    def app(message, context):
        if context.node_id == 3:
            raise RuntimeError("broken")
        return echo(message, context)

    grid = grid_of(app)
    replies = list(grid.send_and_receive([ask(node) for node in grid.get_node_ids()]))
    assert [reply.has_error() for reply in replies] == [False, True, False]
    with pytest.raises(ExchangeError, match=r"node 3: RuntimeError at test_flower\.py:\d+") as error:
        in_order(replies)
    assert "broken" not in str(error.value), "what an exception says may be a patient's value"


def test_a_clinic_that_no_node_hosts_is_named(grid_of):
    grid = grid_of(echo)
    assert len(in_order(list(grid.send_and_receive([ask(node) for node in grid.get_node_ids()])))) == 3
    hello = {2: Reply(clinics=(0, 1)), 3: Reply(clinics=(3,))}
    with pytest.raises(AbsentError) as error:
        hosted_clinics(hello, 4)
    assert list(error.value.clinics) == [2]


@pytest.mark.parametrize(
    ("strategy", "cut"),
    [
        ("centralised", None),
        ("local", None),
        ("fedavg", None),
        ("splitfed-v1", "vanilla"),
        ("splitfed-v1", "u-shaped"),
        ("flwr.serverapp.strategy.FedAvg", None),
    ],
)
@pytest.mark.parametrize("nth", [1, 6])
def test_an_error_in_a_client_ends_the_run(ragged, strategy, cut, nth):
    """Flower's strategies would go on without that clinic."""
    handled = []

    def failing_once(app):
        def once(message, context):
            handled.append(message.metadata.message_type)
            if len(handled) == nth:
                raise RuntimeError("broken once")
            return app(message, context)

        return once

    if strategy == "centralised":
        nth = min(nth, 2)
    elif strategy in ("local", "fedavg"):
        nth = min(nth, 3)
    plan, federation = plan_of(run_spec(ragged, strategy, cut))
    with pytest.raises(ExchangeError, match=r"RuntimeError at test_flower\.py"):
        train_run(plan, federation, through=failing_once)
    assert len(handled) == (nth if not strategy.startswith("flwr") else -(-nth // 4) * 4)


def test_arrays_cross_by_reference(grid_of):
    grid = grid_of(echo)
    tensor = torch.randn(3)
    messages = [ask(node, arrays=array_record({"w": tensor})) for node in grid.get_node_ids()]
    replies = list(grid.send_and_receive(messages))
    assert all(tensors(reply, "arrays")["w"].data_ptr() == tensor.data_ptr() for reply in replies)


def test_a_nodes_state_lives_as_long_as_the_grid_and_belongs_to_it(grid_of):
    def app(message, context):
        count = context.state.setdefault("count", ConfigRecord({"n": 0}))
        count["n"] += 1
        return Message(RecordDict({"config": ConfigRecord({"n": count["n"]})}), reply_to=message)

    grid = grid_of(app)
    first, second, _ = grid.get_node_ids()
    counts = [
        reply.content["config"]["n"]
        for node in (first, first, second, first)
        for reply in grid.send_and_receive([ask(node)])
    ]
    assert counts == [1, 2, 1, 3]
    assert [reply.content["config"]["n"] for reply in grid_of(app).send_and_receive([ask(first)])] == [1]


def test_contexts_say_what_flowers_would(grid_of):
    seen = {}

    def app(message, context):
        seen[context.node_id] = context
        return echo(message, context)

    grid = grid_of(app)
    list(grid.send_and_receive([ask(node) for node in grid.get_node_ids()]))
    for context in seen.values():
        assert isinstance(context, Context)
        assert context.run_id == grid.run.run_id
        assert context.run_config == {"k": 1}


def test_every_run_has_an_identifier_of_its_own(grid_of):
    assert len({grid_of(echo).run.run_id for _ in range(3)}) == 3
    assert isinstance(grid_of(echo), Grid)


def test_a_run_may_be_set(grid_of):
    grid = grid_of(echo)
    grid.set_run(empty_run(77))
    assert grid.run.run_id == 77
    assert grid.create_message(RecordDict(), "train", 2, "").metadata.run_id == 77


# The meter


def test_bytes_by_hand(grid_of):
    """Rows without padding, parameters once a clinic, messages without arrays for nothing."""
    meter = Meter(4)
    grid_of(echo)
    smashed, labels = torch.zeros(2, 8, 3), torch.zeros(2, 8, dtype=torch.uint8)
    config = {"clinics": [2, 0], "rows": [5, 8]}
    rows = Message(content({"smashed": {"smashed": smashed}, "labels": {"labels": labels}}, config), 2, "train.x")
    meter.observe(rows, "up", [0, 1, 2])
    model = Message(content({"arrays": {"w": torch.zeros(1, 10), "b": torch.zeros(1, 2)}}, {}), 2, "train")
    meter.observe(model, "down", [0, 1])
    counts = content({}, {"clinics": [0, 1]})
    counts["metrics"] = MetricRecord({"num-examples": 3})
    meter.observe(Message(counts, 2, "train"), "up", [0, 1])
    meter.observe(Message(content({}, {}), 2, "query.hello"), "down", [0, 1, 2, 3])
    assert {key: sizes.tolist() for key, sizes in meter.traffic.items()} == {
        ("up", "smashed"): [8 * 12, 0, 5 * 12, 0],
        ("up", "labels"): [8, 0, 5, 0],
        ("up", "headers"): [512, 0, 512, 0],
        ("down", "model"): [48, 48, 0, 0],
        ("down", "headers"): [512, 512, 0, 0],
    }


def test_an_error_reply_is_not_counted(grid_of):
    meter = Meter(2)

    def app(message, context):
        raise RuntimeError("broken")

    grid = InProcessGrid(app, [[0, 1]], {}, meter)
    [reply] = grid.send_and_receive([ask(2, arrays=array_record({"w": torch.zeros(1, 3)}))])
    assert isinstance(reply.error, Error)
    assert {key for key in meter.traffic if key[0] == "up"} == set()
    assert meter.traffic["down", "model"].tolist() == [12, 12]
