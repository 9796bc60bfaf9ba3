"""What a process has in memory does not grow with the runs that it has executed; figures in benchmarks/README.md."""

import gc

import pytest
from support import DP_SGD, NO_PRIVACY, run_spec, write_csv

from sim.study.planning import plan_runs
from sim.study.runner import execute

OF_A_RUN = {
    "Job",
    "Plan",
    "Facts",
    "Federation",
    "Records",
    "Ledger",
    "Simulation",
    "Workplace",
    "Evaluator",
    "Network",
}


def alive():
    """Return the living objects of our own types, by identity."""
    return {id(each): type(each).__name__ for each in gc.get_objects() if str(type(each).__module__).startswith("sim.")}


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory):
    """Execute three runs on data of their own, and return the names of what is still there of each."""
    folder = tmp_path_factory.mktemp("memory")
    left = []
    for seed in range(3):
        csv = write_csv(folder / f"{seed}.csv", sizes=(30 + seed, 40, 50))
        method = (("fedavg", None), ("splitfed-v1", "u-shaped"), ("split", "vanilla"))[seed]
        privacy = (DP_SGD, DP_SGD, NO_PRIVACY)[seed]
        gc.collect()
        before = alive()
        for plan in plan_runs([run_spec(csv, *method, privacy, seed=seed)]):
            assert execute(plan, folder / "small", {})["status"] == "ok"
        del plan
        gc.collect()
        left.append({name for key, name in alive().items() if key not in before})
    return left


def test_no_cache_keeps_a_runs_records_job_or_network(left_behind):
    assert [names & OF_A_RUN for names in left_behind] == [set()] * 3


def test_no_cache_keeps_a_runs_batches(left_behind):
    assert [names & {"Batches"} for names in left_behind] == [set()] * 3
