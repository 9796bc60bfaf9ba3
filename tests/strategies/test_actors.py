"""Clinics in Ray's actors give the numbers of nodes in one process, and an actor that dies ends its own run alone."""

import os
import signal
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from edges import spec_of
from split_twins import Method
from support import DP_SGD, bitwise, plan_of, write_csv

from sim.flower.actors import ActorDiedError, ActorFailedError, ActorHosts
from sim.flower.meter import Meter
from sim.methods.personal import personalised
from sim.study.engines import RayCluster
from sim.study.train import train_run

NODES = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra suture[ray]"),
    pytest.mark.xdist_group("ray"),
    # Ray forgets the processes that it has started.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def hosts():
    with RayCluster("local", NODES).joined():
        yield ActorHosts(NODES)


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("actors") / "clinics.csv", [7, 30, 41, 22])


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Method("fedavg"), {"privacy": DP_SGD, "participation": 0.5}),
        (Method("split", "vanilla"), {}),
        (Method("splitfed-v1", "u-shaped"), {"smashed_dtype": "float16"}),
        (Method("splitfed-v3", "vanilla"), {"optimizer": "adam"}),
        (Method("fedavg-finetuned"), {}),
        (Method("flwr.serverapp.strategy.FedMedian"), {}),
    ],
    ids=lambda each: getattr(each, "name", ""),
)
def test_the_model_the_bytes_and_what_is_overheard_are_those_of_one_process(hosts, csv, method, settings):
    plan, federation = plan_of(method.spec(csv, rounds=2, **settings))
    heard = ([], [])
    runs = [
        train_run(plan, federation, overheard=lambda asked, reply: heard[0].append((asked, reply)), hosts=hosts),
        train_run(plan, federation, NODES, overheard=lambda asked, reply: heard[1].append((asked, reply))),
    ]
    assert bitwise(runs[0].parameters, runs[1].parameters)
    assert bitwise(runs[0].best_parameters, runs[1].best_parameters)
    assert runs[0].evaluations == runs[1].evaluations
    traffic = [run.meter.traffic for run in runs]
    assert traffic[0].keys() == traffic[1].keys()
    assert all(np.array_equal(traffic[0][key], sizes) for key, sizes in traffic[1].items())
    said = [[(type(asked), reply.clinics, reply.rows, reply.noised) for asked, reply in each] for each in heard]
    assert said[0] == said[1] != []


@pytest.mark.parametrize(("strategy", "cut"), [("splitfed-v1", "multi-hop"), ("hierarchical-splitfed", "vanilla")])
def test_clinics_behind_edge_servers_may_be_in_actors(hosts, csv, strategy, cut):
    plan, federation = plan_of(spec_of(csv, strategy, cut))
    runs = [train_run(plan, federation, hosts=each) for each in (hosts, None)]
    assert bitwise(runs[0].parameters, runs[1].parameters)


def test_an_actor_holds_the_records_of_its_clinics_alone(csv):
    from sim.methods.node_group import NodeGroup, records_of

    plan, federation = plan_of(Method("fedavg").spec(csv))
    whole, some = federation.train, records_of(plan.job, federation.train, [1, 2])
    assert len(some.x) == sum(plan.job.sizes[1:3]) < len(whole.x)
    groups = [NodeGroup.build(plan.job, records, [1, 2]) for records in (whole, some)]
    assert all(a.x.equal(b.x) and a.y.equal(b.y) and (a.first == b.first).all() for a, b in [groups])


def test_what_fails_in_an_actor_is_told_without_its_text(hosts, csv):
    plan, federation = plan_of(Method("fedavg-finetuned").spec(csv))
    grid = hosts.begin(plan.job, federation.train, [[0, 1], [2, 3]], Meter(4), None)
    with pytest.raises(ActorFailedError) as caught:
        grid.at_clinics(partial(personalised, model={"of a patient": torch.tensor([[93.0]])}))
    assert str(caught.value) == "KeyError where some of the clinics are"
    assert caught.value.__cause__ is None


def test_an_actor_that_is_killed_ends_its_run_and_no_other(hosts, csv):
    import ray

    plan, federation = plan_of(Method("fedavg").spec(csv, rounds=3))
    whole = train_run(plan, federation, hosts=hosts)

    def kill(server_round, evaluation):
        if server_round == 1:
            os.kill(ray.get(hosts.actors[1].__ray_call__.remote(lambda host: os.getpid())), signal.SIGKILL)

    with pytest.raises(ActorDiedError, match="killed from outside"):
        train_run(plan, federation, hosts=hosts, watch=kill)
    assert bitwise(train_run(plan, federation, hosts=hosts).parameters, whole.parameters)
