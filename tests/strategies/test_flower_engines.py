"""`flwr run` from a clean clone gives the numbers of the in-process grid, on Flower's simulation and on a SuperLink."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
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
NODES = 3
FIRST_LINE = (
    "This is a replay of a simulation, not a deployment: every party, the server and each node, reads the scenario"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="needs the extra suture[ray]"),
    pytest.mark.xdist_group("flower-engines"),
]


class Flower:
    """A clean copy of what is tracked here, outside this folder, and Flower's programs with a home of their own."""

    def __init__(self, folder):
        self.home, self.app = folder / "home", folder / "app"
        self.home.mkdir()
        tracked = subprocess.run(
            [shutil.which("git"), "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for name in filter(None, tracked.split("\0")):
            if (ROOT / name).is_file():
                (self.app / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(ROOT / name, self.app / name)
        off = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = os.environ | off | {"FLWR_HOME": str(self.home)}
        self.environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
        self.bin = Path(find_spec("flwr").origin).parents[4] / "bin"
        path = [str(Path(sys.executable).parent), str(self.bin), self.environment["PATH"]]
        self.environment["PATH"] = os.pathsep.join(path)
        self.started = []

    def run(self, *where, **settings):
        """Return what `flwr run` of the clone prints; the model lies at the path ``out``."""
        command = [str(self.bin / "flwr"), "run", str(self.app), *where, "--stream"]
        if settings:
            stated = " ".join(f"{key.replace('_', '-')}={value}" for key, value in settings.items())
            command += ["--run-config", stated]
        done = subprocess.run(
            command, cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        return done.stdout + done.stderr

    def start(self, *command):
        """Start a program of Flower's that goes on, in a session of its own."""
        program, *arguments = command
        log = (self.home / f"{len(self.started)}.log").open("w")
        command = [str(self.bin / program), "--insecure", *arguments]
        options = {"cwd": self.home, "env": self.environment, "stdout": log, "stderr": log, "start_new_session": True}
        self.started.append(subprocess.Popen(command, **options))
        log.close()

    def superlink(self, nodes):
        """Start a SuperLink with the nodes of some clinics; returns its name."""
        ports = free_ports(NODES + 1)
        address = f"127.0.0.1:{ports[0]}"
        self.start("flower-superlink", "--host", "127.0.0.1", "--port", str(ports[0]))
        for k in nodes:
            config = f"partition-id={k} num-partitions={NODES}"
            self.start("flower-supernode", "--superlink", address, "--port", str(ports[k + 1]), "--node-config", config)
        (self.home / "config.toml").write_text(f'[superlink.here]\naddress = "{address}"\ninsecure = true\n')
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", ports[0])) == 0:
                    return "here"
            time.sleep(0.2)
        raise AssertionError((self.home / "0.log").read_text()[-3000:])

    def stop(self):
        """End what was started here, and the local SuperLink that `flwr run` has started."""
        for process in self.started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        listed = subprocess.run(["/bin/ps", "-ewwo", "pid,args"], capture_output=True, text=True, check=True).stdout
        processes = dict(line.strip().split(" ", 1) for line in listed.splitlines()[1:])
        links = [
            pid for pid, command in processes.items() if "flower-superlink" in command and str(self.home) in command
        ]
        for pid, command in processes.items():
            if pid in links or any(command.endswith(f"--parent-pid {link}") for link in links):
                os.kill(int(pid), signal.SIGKILL)


def free_ports(count):
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture(scope="module")
def simulation(tmp_path_factory):
    flower = Flower(tmp_path_factory.mktemp("flwr"))
    yield flower
    flower.stop()


@pytest.fixture
def flower(tmp_path):
    flower = Flower(tmp_path)
    yield flower
    flower.stop()


def assert_same_model(number, out, printed):
    spec = expand(load_scenario(SCENARIO))[number]
    federation = load_federation(spec.data, spec.seed)
    ours = train_run(make_plan(spec, federation.facts), federation).parameters
    assert out.is_file(), printed[-3000:]
    theirs = load_file(out)
    assert theirs.keys() == ours.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("number", range(5))
def test_flowers_simulation_gives_the_same_model(simulation, number):
    out = simulation.home / f"{number}.safetensors"
    stated = {"run": number} if number else {}  # as shipped: run 0, and as many nodes as Flower likes
    nodes = ["--federation-config", f"num-supernodes={NODES}"] if number else []
    printed = simulation.run(*nodes, **stated, out=f'"{out}"')
    assert FIRST_LINE in printed
    assert_same_model(number, out, printed)


def test_the_bundled_records_are_in_the_bundle_and_more_nodes_than_clinics_do_no_harm(simulation):
    (simulation.app / "scenarios" / "few.toml").write_text(
        'name = "few"\nseeds = [1]\n[data]\nsource = "heart-disease"\n[model]\nname = "mlp"\nhidden = [4]\n'
        '[train]\nrounds = 1\nbatch-size = 64\nlearning-rate = 0.01\n[[strategies]]\nname = "fedavg"\n'
    )
    printed = simulation.run("--federation-config", "num-supernodes=6", scenario='"scenarios/few.toml"')
    assert "held-out records: within_clinic_auc" in printed, printed[-3000:]


def test_a_superlink_gives_the_same_model(flower):
    out = flower.home / "model.safetensors"
    printed = flower.run(flower.superlink(range(NODES)), out=f'"{out}"')
    assert FIRST_LINE in printed
    assert_same_model(0, out, printed)


def test_a_node_that_never_comes_is_named(flower):
    printed = flower.run(flower.superlink([0, 2]), wait_seconds=20)
    assert "lost clinic-2: no node hosts it" in printed, printed[-3000:]
    assert "Traceback" not in printed
