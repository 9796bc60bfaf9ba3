"""What a program that runs a study imports, and what it leaves of the garbage collector."""

import gc
import json
import platform
import subprocess
import sys

import pytest

from sim.foundation.lazy import left_out, loading

CODE = """
import gc, json, sys
from sim import run

study = run(json.loads(sys.argv[1]), sys.argv[2], progress=False)
heavy = {"dp_accounting", "riskcal", "scipy.special", "scipy.stats", "scipy.optimize", "torch._dynamo"}
print(json.dumps([study.ok, sorted(heavy & sys.modules.keys()), gc.isenabled(), gc.get_freeze_count()]))
"""
TABLES = {
    "name": "start",
    "seeds": [0],
    "data": {"source": "synthetic", "clinics": 3, "records": 90},
    "model": {"name": "mlp", "hidden": [4]},
    "train": {"rounds": 1, "batch-size": 16, "learning-rate": 0.1},
    "privacy": {"mechanism": "none"},
    "strategies": [{"name": "fedavg"}],
}


@pytest.mark.slow
def test_a_run_without_privacy_imports_no_accountant_and_no_scipy_and_leaves_the_collector_as_it_was(tmp_path):
    words = [sys.executable, "-c", CODE, json.dumps(TABLES), str(tmp_path)]
    told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert json.loads(told.splitlines()[-1]) == [True, [], True, 0]


def test_nothing_is_collected_while_modules_are_loaded_and_what_is_there_is_left_out():
    with loading():
        with loading():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    frozen = gc.get_freeze_count()  # the tests' own
    gc.unfreeze()
    try:
        with left_out():
            assert gc.get_freeze_count() > 1000
        assert gc.get_freeze_count() == 0
        gc.freeze()
        with left_out():
            pass
        assert gc.get_freeze_count() > 1000  # a caller's stays
    finally:
        gc.unfreeze()
        if frozen:
            gc.freeze()


def test_what_a_report_is_made_of_imports_no_torch():
    code = "import sys, sim.report.html, sim.report.reading, sim.report.pictures; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert told == "False\n"


REPORT = """
import sys
from sim.cli import app
from sim.foundation.problems import ScenarioError

try:
    app(["report", sys.argv[1]], standalone_mode=False)
except ScenarioError:
    from threadpoolctl import threadpool_info

    print({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
"""


def test_a_report_keeps_to_one_thread_of_linear_algebra(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    done = subprocess.run([sys.executable, "-c", REPORT, tmp_path], check=True, capture_output=True, text=True)
    assert done.stdout == "{1}\n"


FAULTS = """
import resource, torch
from sim.tensor.process import ready_to_train

ready_to_train()
counted = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    [torch.ones(5_000_000) for _ in range(10)]  # 200 MB
    counted.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(counted[2] < counted[0] / 10)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere memory is given back as the system likes")
def test_a_process_that_trains_keeps_what_it_frees_for_the_next_round():
    told = subprocess.run([sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True).stdout
    assert told == "True\n"
