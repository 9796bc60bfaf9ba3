"""Flower's own simulation engine (Ray, one clinic a node) gives the numbers of the in-process grid."""

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sim.data.federation import load_federation
from sim.plan.plan import make_plan
from sim.scenario import load_scenario
from sim.scenario.spec import expand
from sim.study.train import train_run

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = ROOT / "scenarios" / "parity.toml"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra suture[ray]"),
    pytest.mark.xdist_group("flower-engines"),
]


@pytest.fixture(scope="module")
def flwr(tmp_path_factory):
    """Return a function that runs a run of the scenario with `flwr run`; its SuperLink is stopped in the end."""
    home = tmp_path_factory.mktemp("flwr")
    off = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    environment = os.environ | off | {"FLWR_HOME": str(home), "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def run(number, clinics):
        out = home / f"{number}.safetensors"
        settings = f'scenario="{SCENARIO}" run={number} out="{out}"'
        command = ["flwr", "run", str(ROOT), "--stream", "--federation-config", f"num-supernodes={clinics}"]
        done = subprocess.run(
            [*command, "--run-config", settings], env=environment, capture_output=True, text=True, timeout=300
        )
        assert out.is_file(), done.stdout[-3000:] + done.stderr[-3000:]
        return load_file(out)

    yield run
    listed = subprocess.run(["/bin/ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    processes = dict(line.strip().split(" ", 1) for line in listed.splitlines()[1:])
    links = [pid for pid, command in processes.items() if "flower-superlink" in command and str(home) in command]
    for pid, command in processes.items():
        if pid in links or any(command.endswith(f"--parent-pid {link}") for link in links):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize("number", range(5))
def test_flowers_simulation_gives_the_same_model(flwr, number):
    spec = expand(load_scenario(SCENARIO))[number]
    federation = load_federation(spec.data, spec.seed)
    ours = train_run(make_plan(spec, federation.facts), federation).parameters
    theirs = flwr(number, len(federation.names))
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-7)
