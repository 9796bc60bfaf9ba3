"""Noise that a second thread draws ahead is the noise that would be drawn, and the thread ends with what it is for."""

import threading
import weakref

import numpy as np
import pytest
import torch
from support import DP_SGD, bitwise, plan_of, run_spec, write_csv

from sim.foundation import ahead
from sim.foundation.ahead import Draws, announced, drawing_ahead, normals
from sim.foundation.normals import fill_normals
from sim.methods.replies import ExchangeError
from sim.study import engines
from sim.study.engines import InProcess
from sim.study.train import train_run

torch.set_num_threads(1)


def draws_of(step, clinics=(4, 0, 2), numbers=70):
    return Draws(("a run",) * len(clinics), "noise.model", clinics, 3, step, numbers)


def drawn_now(draws):
    rows = np.empty((len(draws.keys), draws.numbers))
    fill_normals(rows, *draws[:-1])
    return rows


@pytest.fixture
def second(monkeypatch):
    """Return which threads drew, in turn, and let them draw ahead however little it is."""
    drew = []

    def watched(rows, *name):
        drew.append(threading.current_thread())
        fill_normals(rows, *name)

    monkeypatch.setattr(ahead, "LEAST", 1)
    monkeypatch.setattr(ahead, "fill_normals", watched)
    return drew


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Return what trains a run in this process, of so many processors, and gives the parameters."""
    plan, federation = plan_of(run_spec(write_csv(tmp_path / "clinics.csv"), "fedavg", privacy=DP_SGD))

    def train(processors):
        monkeypatch.setattr(engines, "default_jobs", lambda: processors)
        [parameters] = InProcess().run(lambda group: iter([train_run(plan, federation).parameters]), [[plan]])
        return parameters

    return train


def others(drew):
    return [thread for thread in drew if thread is not threading.current_thread()]


def test_draws_come_as_they_are_asked_for_whatever_was_announced(second):
    with drawing_ahead(), announced(map(draws_of, range(4))):
        taken = [normals(draws_of(step)) for step in (0, 1)]
        other = normals(draws_of(2, clinics=(4, 0)))
        taken += [normals(draws_of(step)) for step in (2, 3, 4)]
        assert len(others(second)) == 4
    for step, rows in enumerate(taken):
        np.testing.assert_array_equal(rows, drawn_now(draws_of(step)))
    np.testing.assert_array_equal(other, drawn_now(draws_of(2, clinics=(4, 0))))


def test_no_more_is_drawn_ahead_than_has_room(second, monkeypatch):
    monkeypatch.setattr(ahead, "AHEAD", 1)
    begun = []
    with drawing_ahead(), announced(begun.append(step) or draws_of(step) for step in range(9)):
        normals(draws_of(0))
        assert begun == [0, 1]
    with drawing_ahead():
        normals(draws_of(1))
    assert second[-1] is threading.current_thread(), "what nobody asked for was dropped"


def test_a_run_has_the_same_bits_and_leaves_no_thread(second, trained):
    threads = threading.enumerate()
    plain = trained(processors=1)
    assert not others(second)
    assert bitwise(trained(processors=2), plain)
    assert len(others(second)) == len(second) / 2, "all noise of the second run"
    assert threading.enumerate() == threads


def test_what_goes_wrong_while_drawing_ends_the_run(second, trained, monkeypatch):
    def fails(*_):
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError

    monkeypatch.setattr(ahead, "fill_normals", fails)
    threads = threading.enumerate()
    with pytest.raises(ExchangeError, match="MemoryError"):
        trained(processors=2)
    assert threading.enumerate() == threads


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_thread_ends_with_a_study_that_is_interrupted_or_fails(second, monkeypatch, error):
    def execute(_):
        with announced(map(draws_of, range(9))):
            yield {}
            raise error

    monkeypatch.setattr(engines, "default_jobs", lambda: 2)
    threads = threading.enumerate()
    with pytest.raises(error):
        list(InProcess().run(execute, [[]]))
    left_early = InProcess().run(execute, [[]])
    next(left_early)
    assert threading.enumerate() != threads
    left_early.close()
    assert threading.enumerate() == threads


def test_a_thread_whose_end_is_interrupted_or_elsewhere_is_not_asked_again(second, monkeypatch):
    ends = ahead._Helper.end

    def interrupted(helper):
        ends(helper)
        raise KeyboardInterrupt

    monkeypatch.setattr(ahead._Helper, "end", interrupted)
    with pytest.raises(KeyboardInterrupt), drawing_ahead():
        pass
    monkeypatch.setattr(ahead._Helper, "end", ends)
    with drawing_ahead(), announced(map(draws_of, range(1))):
        normals(draws_of(0))

    monkeypatch.setattr(engines, "default_jobs", lambda: 2)
    begun = InProcess().run(lambda _: iter([{}, {}]), [[]])
    next(begun)
    closing = threading.Thread(target=begun.close)
    closing.start()
    closing.join()
    with drawing_ahead(), announced(map(draws_of, range(1))):
        normals(draws_of(0))
    assert len(others(second)) == 2


class _Trainer:
    steps = 9


def test_what_was_announced_is_let_go_with_its_context(second, monkeypatch):
    monkeypatch.setattr(ahead, "AHEAD", 1)

    def steps(trainer):
        for step in range(trainer.steps):
            yield draws_of(step)

    trainer = _Trainer()
    there = weakref.ref(trainer)
    with drawing_ahead():
        with announced(steps(trainer)):
            normals(draws_of(0))
        del trainer
        assert there() is None


@pytest.mark.parametrize(("processors", "spare"), [(3, False), (4, True)])
def test_a_worker_draws_ahead_where_each_has_a_second_processor(second, monkeypatch, processors, spare):
    def execute(_):
        with announced(map(draws_of, range(2))):
            yield normals(draws_of(0))

    told = []
    monkeypatch.setattr(engines, "default_jobs", lambda: processors)
    monkeypatch.setattr(engines, "_tell", told.append, raising=False)
    engines._tell_rows(execute, [], 2)
    np.testing.assert_array_equal(told, [drawn_now(draws_of(0))])
    assert bool(others(second)) == spare


def test_a_process_that_was_forked_draws_itself(second, monkeypatch):
    with drawing_ahead(), announced(map(draws_of, range(2))):
        monkeypatch.setattr(ahead.os, "getpid", lambda: -1)
        before = len(second)
        np.testing.assert_array_equal(normals(draws_of(0)), drawn_now(draws_of(0)))
        assert second[before:].count(threading.current_thread()) == 1
        monkeypatch.undo()
