"""What every test shares."""

import gc
import os
import tempfile
import warnings

import pytest

with warnings.catch_warnings():
    # Typer takes a name from click that click has deprecated; imported here once, before warnings count as errors.
    warnings.simplefilter("ignore", DeprecationWarning)
    import typer  # noqa: F401

# What commands remember for later ones is of one session of tests, its subprocesses included.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="suture-cache-")


def pytest_collection_finish():
    """Leave what stays until the end, thousands of tests and libraries, out of every later garbage collection."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish():
    gc.unfreeze()


@pytest.fixture(scope="session")
def ragged(tmp_path_factory):
    """A CSV file of four clinics with 7, 23, 40 and 64 records of two classes."""
    from support import write_csv

    return write_csv(tmp_path_factory.mktemp("ragged") / "clinics.csv")


@pytest.fixture
def one_key(monkeypatch):
    """Let all runs draw the same noise, which no two do, so that they can be held against each other."""
    monkeypatch.setattr("sim.methods.job.run_key", lambda digest, facts: "one key")


@pytest.fixture
def suture(monkeypatch, capfd, tmp_path):
    """Call the command in this process, in an empty folder; return its exit code, its output and its stderr."""
    from support import call_suture

    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capfd.readouterr()
        return call_suture(*arguments), *capfd.readouterr()

    return call


@pytest.fixture
def no_vega(monkeypatch):
    """Only a browser needs Vega, which takes seconds to bundle."""
    monkeypatch.setattr("sim.report.html.bundle", lambda: "const vegaEmbed = null;")


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing takes most of a report's time, and most tests look at its page alone."""
    from contextlib import nullcontext

    monkeypatch.setattr("sim.report.pictures.drawn_beside", lambda folder, *, wanted: nullcontext(lambda specs: None))


@pytest.fixture
def trade_off(tmp_path):
    """Write the scenario of twelve runs; return its file."""
    from support import TRADE_OFF, write_scenario

    return write_scenario(tmp_path, TRADE_OFF)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run it once with losses, as a user would; return the scenario's file, the results folder and the process."""
    from support import LOSSES, TRADE_OFF, suture_process, write_scenario

    folder = tmp_path_factory.mktemp("finished")
    path = write_scenario(folder, TRADE_OFF.replace(*LOSSES))
    done = suture_process("run", path, "--out", folder / "out", "--jobs", 2)
    return path, folder / "out", done
