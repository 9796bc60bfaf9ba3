"""Mixed precision: a step is that of a plain PyTorch loop under autocast, and refused where it does not pay."""

import pytest
import torch
from split_twins import CUT, Method, apart
from support import DP_SGD, plan_of, train_spec, write_csv
from torch import nn
from torch.nn import functional

from sim.foundation.problems import ScenarioError
from sim.study.train import train_run

LARGE = {"name": "factory", "factory": "test_autocast:large", "hidden": [6]}
ROWS = 40


def large(input_shape, outputs):
    widened = nn.Sequential(nn.Unflatten(1, (1, *input_shape)), nn.Conv1d(1, 160, 3, padding=1), nn.Tanh())
    narrowed = nn.Sequential(nn.Conv1d(160, 160, 3, padding=1), nn.Flatten(), nn.Linear(160 * input_shape[0], 5))
    return [("a", widened), ("b", narrowed), ("c", nn.Linear(5, outputs))]


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("autocast") / "clinics.csv", [ROWS])


FEDAVG = Method("fedavg")


def spec_of(csv, method=FEDAVG, **settings):
    of_a_step = {"rounds": 1, "batch_size": ROWS, "optimizer": "sgd", "learning_rate": 0.5}
    return method.spec(csv, **{"model": LARGE, **of_a_step, **settings})


def test_a_step_is_that_of_pytorch_under_autocast(csv):
    plan, federation = plan_of(spec_of(csv, autocast="bfloat16"))
    found = train_run(plan, federation).parameters
    blocks = large(federation.train.x.shape[1:], 1)
    network = nn.Sequential()
    for name, module in blocks:
        network.add_module(name, module)
    start = plan.job.network.initial_parameters(plan.job.seed)
    network.load_state_dict({name: value[0] for name, value in start.items()})
    x, y = torch.tensor(federation.train.x), torch.tensor(federation.train.y)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(x)
    functional.binary_cross_entropy_with_logits(logits.float()[:, 0], y.float()).backward()
    expected = {name: (value - 0.5 * value.grad)[None].detach() for name, value in network.named_parameters()}
    in_32_bits = train_spec(spec_of(csv)).parameters
    assert apart(found, expected) < apart(in_32_bits, expected) / 20
    assert {value.dtype for value in found.values()} == {torch.float32}


@pytest.mark.parametrize("method", [*CUT[4:6], *CUT[-2:]], ids=str)
def test_cut_models_train_so_too_and_send_32_bits(csv, method):
    runs = [train_spec(spec_of(csv, method, **how)) for how in ({"autocast": "bfloat16"}, {})]
    assert 0 < apart(runs[0].parameters, runs[1].parameters) < 0.05
    assert runs[0].meter.traffic.keys() == runs[1].meter.traffic.keys()
    assert all((runs[0].meter.traffic[key] == sizes).all() for key, sizes in runs[1].meter.traffic.items())


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"model": {"hidden": [6, 5]}}, "as large as resnet18's"), ({"privacy": DP_SGD}, "longer than its clip")],
)
def test_it_is_refused_where_it_does_not_pay_or_breaks_a_clip(csv, settings, told):
    with pytest.raises(ScenarioError, match=told):
        plan_of(spec_of(csv, autocast="bfloat16", **settings))
