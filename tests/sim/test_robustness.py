"""What a study survives: kill -9, a full disk, a folder that cannot be written, a dead worker, Ctrl-C.

Each test ends with the same command given again, and with a study that equals one that nothing disturbed.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from support import STUDY, assert_all_runs_are_whole, assert_same_results, suture_command, write_scenario

from sim import run
from sim.results.store import TABLE_FILE, older_runs, read_rows

SIXTY = ("seeds=[0, 1, 2, 3, 4]", "sweep.privacy.epsilon=[2, 4, inf]")
"""Of the small scenario's four strategies: 60 runs."""
EIGHT = STUDY.replace("seeds = [0, 1]", "seeds = [0]")


def settings(*overrides):
    return [word for override in overrides for word in ("--set", override)]


def finished(study):
    """Return when each finished run was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in study.glob("[!.]*/run.json")}


def begin(*arguments):
    """Begin a study in a process group of its own, as a shell does."""
    return subprocess.Popen(
        suture_command("run", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def await_runs(process, study, count):
    """Wait until so many runs are finished, or the process has ended."""
    limit = time.monotonic() + 300
    while process.poll() is None and len(finished(study)) < count and time.monotonic() < limit:
        time.sleep(0.002)


def complete(*arguments):
    """Run a study to its end; return its exit code and the lines on stderr."""
    done = subprocess.run(suture_command("run", *arguments), capture_output=True, text=True, timeout=600, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()


@pytest.mark.long
def test_sixty_runs_killed_at_ten_moments_lose_nothing_and_repeat_nothing(tmp_path):
    path = write_scenario(tmp_path)
    uninterrupted, study = tmp_path / "whole" / "small", tmp_path / "killed" / "small"
    assert complete(path, "--out", uninterrupted.parent, "--jobs", 2, *settings(*SIXTY))[0] == 0
    arguments = (path, "--out", study.parent, "--jobs", 2, *settings(*SIXTY))
    rng = np.random.default_rng(60)
    kept = {}
    for moment in range(10):
        more = int(rng.integers(0, 7)) if moment else 0  # the first before any run is there
        with begin(*arguments) as process:
            if more:
                await_runs(process, study, len(kept) + more)
                time.sleep(rng.uniform(0, 0.3))
            else:
                time.sleep(rng.uniform(0, 8))
            os.killpg(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        there = finished(study)
        assert len(there) >= len(kept) + more
        assert there | kept == there  # what was finished is kept, and not made again
        kept = there
        if study.exists():
            assert_all_runs_are_whole(study)
    assert 0 < len(kept) < 60

    assert complete(*arguments)[0] == 0
    there = finished(study)
    assert there | kept == there
    assert len(there) == len(pd.read_parquet(study / TABLE_FILE)) == 60
    assert_same_results(uninterrupted, study)
    assert [item.name for item in study.iterdir() if item.name.startswith(".")] == []


@contextmanager
def mounted(folder, options):
    """Mount a file system in memory, for as long as the test needs it."""
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small file system")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield mount
    finally:
        subprocess.run(["umount", folder], check=True)  # noqa: S607


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    path = write_scenario(folder, EIGHT)
    run(path, folder / "out")
    return path, folder / "out" / "small"


@pytest.mark.long
@pytest.mark.parametrize("kilobytes", [8, 120])
def test_a_full_disk_is_told_and_the_study_goes_on_when_there_is_room(whole, tmp_path, kilobytes):
    """The disk is full in the first run, and when some are finished."""
    path, uninterrupted = whole
    out = tmp_path / "disk"
    with mounted(out, f"size={kilobytes}k") as mount:
        code, err = complete(path, "--out", out, "--jobs", 2)
        assert code == 2
        assert err[-1].endswith(
            "No space left on device; finished runs are kept, and the same command resumes once the folder can be "
            "written"
        )
        assert err[-1].startswith(str(out))
        study = out / "small"
        assert_all_runs_are_whole(study)
        kept = finished(study)
        assert len(kept) < 8
        subprocess.run([mount, "-o", "remount,size=64m", out], check=True)
        assert complete(path, "--out", out, "--jobs", 2)[0] == 0
        assert finished(study) | kept == finished(study)
        assert_same_results(uninterrupted, study)
        assert [item.name for item in study.iterdir() if item.name.startswith(".")] == []


def test_a_folder_that_is_read_only(suture, tmp_path):
    path, out = write_scenario(tmp_path, EIGHT), tmp_path / "out"
    with mounted(out, "ro"):
        code, _, err = suture("run", path, "--out", out, "--jobs", 1)
        assert (code, err.count("\n")) == (2, 1)
        assert err.startswith(f"{out / 'small'}: Read-only file system; ")
        assert list(out.iterdir()) == []


def test_something_in_the_way_of_the_logs(suture, tmp_path):
    path, study = write_scenario(tmp_path, EIGHT), tmp_path / "out" / "small"
    study.mkdir(parents=True)
    (study / "logs").write_text("mine", encoding="utf-8")
    code, _, err = suture("run", path, "--out", study.parent, "--jobs", 1)
    assert code == 2
    assert err.splitlines()[-1].startswith(f"{study / 'logs'}: File exists; finished runs are kept")
    assert (study / "logs").read_text(encoding="utf-8") == "mine"
    assert finished(study) == {}


def workers_of(process):
    """Return the worker processes of a study, which are children of its process."""
    children = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(line.split()[0]) for line in children.stdout.splitlines() if "spawn_main" in line]


@pytest.mark.long
def test_a_worker_that_the_kernel_kills(whole, tmp_path):
    path, uninterrupted = whole
    study = tmp_path / "out" / "small"
    arguments = (path, "--out", study.parent, "--jobs", 2)
    with begin(*arguments) as process:
        await_runs(process, study, 3)
        os.kill(workers_of(process)[0], signal.SIGKILL)
        err = process.stderr.read()
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith("a worker process was killed from outside (out of memory?)")
    assert "Traceback" not in err
    assert_all_runs_are_whole(study)
    kept = finished(study)
    assert len(kept) >= 3
    assert complete(*arguments)[0] == 0
    assert finished(study) | kept == finished(study)
    assert_same_results(uninterrupted, study)


@pytest.mark.long
@pytest.mark.parametrize(("jobs", "finished_runs"), [(1, 1), (2, 0), (2, 2)])
def test_ctrl_c_ends_at_once_and_the_study_goes_on_from_there(whole, tmp_path, jobs, finished_runs):
    """With two jobs and no run finished, the workers are still being started."""
    path, uninterrupted = whole
    study = tmp_path / "out" / "small"
    arguments = (path, "--out", study.parent, "--jobs", 2)
    rng = np.random.default_rng(finished_runs)
    with begin(*arguments) as process:
        while process.poll() is None and not (study / "study.json").exists():
            time.sleep(0.002)
        await_runs(process, study, finished_runs)
        time.sleep(rng.uniform(0, 0.3))
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
        err = process.stderr.read()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; finished runs are kept, and the same command resumes"
    assert "Traceback" not in err
    assert_all_runs_are_whole(study)
    kept = finished(study)
    assert finished_runs <= len(kept) < 8
    assert complete(*arguments)[0] == 0
    assert finished(study) | kept == finished(study)
    assert_same_results(uninterrupted, study)


def test_half_a_record_is_no_run(whole, tmp_path):
    """Such as a power cut may leave: it is made again, and nothing stumbles over it."""
    path, uninterrupted = whole
    study = shutil.copytree(uninterrupted, tmp_path / "small")
    rows = read_rows(study)
    record = study / rows[0]["run_id"] / "run.json"
    record.write_text(record.read_text(encoding="utf-8")[:200], encoding="utf-8")
    with pytest.raises(json.JSONDecodeError):
        json.loads(record.read_text(encoding="utf-8"))
    assert read_rows(study) == rows[1:]
    assert older_runs(study) == []
    run(path, tmp_path)
    assert_same_results(uninterrupted, study)
