"""What a run's folder says of secure aggregation and of clinics that collude is recounted, and forgeries are named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import plan_of, run_spec, write_csv
from test_verify import chain_anew, edit, faults, other_name, scale

from sim.study.runner import execute


@pytest.fixture(scope="module")
def summed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose server sees sums, and two of whose clinics may collude."""
    folder = tmp_path_factory.mktemp("summed")
    csv = write_csv(folder / "patients.csv")
    privacy = {"mechanism": "clinic-level", "noise-multiplier": 1.5, "clip": 0.5, "delta": 1e-3}
    privacy |= {"secure-aggregation": True, "colluding-clinics": 2}
    spec = run_spec(csv, privacy=privacy, rounds=2)
    assert execute(plan_of(spec)[0], folder, {"suture": "0"})["status"] == "ok"
    return folder / spec.run_id


SUMS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "nothing": (lambda record: None, ""),
    "row": (lambda r: scale(r["row"], "epsilon_server_and_peers"), "row.epsilon_server_and_peers: "),
    "replaced": (lambda r: scale(r["row"], "epsilon_peers_replace"), "row.epsilon_peers_replace: "),
    "clinic": (lambda r: scale(r["plan"]["clinics"][1]["epsilon"], "peers"), "plan.clinics.1.epsilon.peers: "),
    "more updates": (lambda r: r["plan"]["drawn"]["sums"][0][0].__setitem__(0, 5), "sums.0: 5 updates are not 4 to 4"),
    "fewer rounds": (lambda r: r["plan"]["drawn"]["sums"][0][0].__setitem__(1, 1), "sums.0: are not as many as the r"),
    "another round": (
        lambda r: [own.append([4, 1]) for own in r["plan"]["drawn"]["sums"]],
        "plan.drawn.sums: 12 clinics' updates are not those of 2 rounds",
    ),
    "fewer colluders": (
        lambda r: r["spec"]["privacy"].update({"colluding-clinics": 1}) or other_name(r),
        "is not what settings and counts give",
    ),
    "seen by each": (
        lambda r: r["spec"]["privacy"].update({"secure-aggregation": False}) or other_name(r),
        "clinic 0, server: is not what settings and counts give",
    ),
}


def test_without_collusion_nothing_is_said_of_it(tmp_path: Path) -> None:
    csv = write_csv(tmp_path / "patients.csv")
    spec = run_spec(csv, rounds=1)
    assert execute(plan_of(spec)[0], tmp_path, {"suture": "0"})["status"] == "ok"
    run = tmp_path / spec.run_id
    assert faults(run) == []
    edit(run, lambda record: record["row"].update(epsilon_peers=1.0))
    chain_anew(run)
    assert any("row.epsilon_peers: is 1.0, but no clinic is said to collude" in fault for fault in faults(run))


def test_a_round_that_invites_more_than_it_needs_verifies_against_a_lying_server(tmp_path: Path) -> None:
    privacy = {"mechanism": "clinic-level", "noise-multiplier": 1.5, "clip": 0.5, "delta": 1e-3, "trust": "active"}
    spec = run_spec(write_csv(tmp_path / "patients.csv"), privacy=privacy | {"secure-aggregation": True}, rounds=2)
    train = spec.train.model_copy(update={"participation": 0.5, "over_select": 2.0})
    spec = spec.model_copy(update={"train": train})
    assert execute(plan_of(spec)[0], tmp_path, {"suture": "0"})["status"] == "ok"
    assert faults(tmp_path / spec.run_id) == []


@pytest.mark.parametrize("change", SUMS)
def test_what_is_said_of_sums_is_recounted(summed: Path, change: str, tmp_path: Path) -> None:
    forged = Path(shutil.copytree(summed, tmp_path / summed.name))
    edit(forged, SUMS[change][0])
    chain_anew(forged)
    assert any(SUMS[change][1] in fault for fault in faults(forged)) or not (SUMS[change][1] or faults(forged))
