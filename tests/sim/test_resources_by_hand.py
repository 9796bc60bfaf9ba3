"""A finished study's energy, memory and idle shares, worked out anew from the columns of its tables alone.

Links and computers are those of docs/clock.md. Taken from the tables are counts only (FLOPs, bytes, steps, rounds) and
the run's time, which other tests work out by hand.
"""

import json

import pandas as pd
import pytest
from support import SCENARIO, write_csv

from sim import run

# Bit/s down and up, seconds one way, FLOP/s, watts idle and busy: rural-dsl, with a laptop; a small board in its place.
DSL = (10e6, 1e6, 0.025, 50e9, 10, 40)
BOARD = (*DSL[:3], 10e9, 3, 6.4)
SERVER_FLOPS, WORKERS = 1e9, 2
STUDY = (
    SCENARIO.replace("[0, 1]", "[0]").replace("rounds = 2", 'rounds = 3\noptimizer = "adam"')
    + f"""
[server]
compute = "{SERVER_FLOPS:g} FLOP/s"
workers = {WORKERS}
[[clinics]]
profile = "rural-dsl"
sites = ["k0", "k1"]
[[clinics]]
profile = "rural-dsl"
compute = "small-board"
[[strategies]]
name = "fedavg"
[[strategies]]
name = "split"
cut = ["vanilla", "u-shaped"]
[[strategies]]
name = "splitfed-v1"
cut = ["vanilla", "u-shaped"]
[[strategies]]
name = "splitfed-v2"
cut = ["vanilla", "u-shaped"]
"""
)
# Messages each way: one for every batch at each cut, and the clinic's parts once a round.
CUTS = {"": 0, "vanilla": 1, "u-shaped": 2}
# MLP 4-6-5-1. Parameters, 30 + 35 + 6, and what a record keeps: itself and, for the backward pass, inputs of linear
# layers. Vanilla, the output behind the cut is the head's own rectifier's; U-shaped, the tail's input beside it.
PARTS = {"": (71, 4 + 4 + 6 + 5), "vanilla": (30, 4 + 4 + 6), "u-shaped": (30 + 6, 4 + 4 + 6 + 5)}


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """Every run: its row, its clinics and the seconds of its phases."""
    folder = tmp_path_factory.mktemp("resources")
    write_csv(folder / "clinics.csv")
    (folder / "small.toml").write_text(STUDY, encoding="utf-8")
    rows = run(folder / "small.toml", out=folder / "results").runs
    places = {run_id: folder / "results" / "small" / run_id for run_id in rows["run_id"]}
    return [
        (
            row,
            pd.read_parquet(places[row["run_id"]] / "clinics.parquet").to_dict("records"),
            json.loads((places[row["run_id"]] / "run.json").read_text())["plan"]["phase_seconds"],
        )
        for row in rows.to_dict("records")
    ]


def spent(clinic, cut):
    """Return the seconds in which a clinic computes, receives and sends."""
    down, up, latency, flops, *_ = DSL if clinic["name"] in ("k0", "k1") else BOARD
    messages = CUTS[cut] * clinic["steps"] + clinic["rounds"]
    receives, sends = (
        latency * messages + 8 * clinic[f"bytes_{way}"] / rate for way, rate in (("down", down), ("up", up))
    )
    return clinic["flops"] / flops, receives, sends


def test_busy_and_idle_make_up_the_run(tables):
    assert len(tables) == 7
    for row, clinics, phases in tables:
        own = [spent(clinic, row["cut"]) for clinic in clinics]
        for clinic, parts in zip(clinics, own, strict=True):
            assert sum(parts) + clinic["idle_share"] * row["sim_seconds"] == pytest.approx(row["sim_seconds"], rel=1e-9)
        assert row["idle_share"] == pytest.approx(sum(clinic["idle_share"] for clinic in clinics) / 4, rel=1e-12)
        for phase, seconds in zip(("clinic", "download", "upload"), map(sum, zip(*own, strict=True)), strict=True):
            assert phases[phase] == pytest.approx(seconds, rel=1e-9)
        worked = row["server_flops"] / SERVER_FLOPS
        assert row["server_busy_share"] * WORKERS * row["sim_seconds"] == pytest.approx(worked, rel=1e-9)
        # What is averaged is the server's work for all: the rest of it was done for one clinic or another.
        averaged = {"fedavg": 71, "splitfed-v1": 71, "splitfed-v2": PARTS[row["cut"]][0], "split": 0}[row["strategy"]]
        common = 3 * 2 * 4 * averaged / SERVER_FLOPS
        assert phases["server"] == pytest.approx(worked - common, rel=1e-9, abs=1e-15)
        assert sum(clinic["seconds"] for clinic in clinics) == pytest.approx(
            sum(map(sum, own)) + phases["server"], rel=1e-9
        )
        if row["strategy"] == "split":  # somebody is always at work, and only one
            assert sum(clinic["seconds"] for clinic in clinics) == pytest.approx(row["sim_seconds"], rel=1e-9)


def test_joules_are_busy_power_while_computing_and_idle_power_on_the_line(tables):
    for row, clinics, _ in tables:
        joules = []
        for clinic in clinics:
            computes, receives, sends = spent(clinic, row["cut"])
            *_, idle, busy = DSL if clinic["name"] in ("k0", "k1") else BOARD
            joules.append(busy * computes + idle * (receives + sends))
        assert [clinic["joules"] for clinic in clinics] == pytest.approx(joules, rel=1e-9)
        assert row["clinic_joules"] == pytest.approx(sum(joules), rel=1e-9)


def test_peak_memory_is_parameters_gradients_two_moments_and_the_largest_batch(tables):
    for row, clinics, _ in tables:
        parameters, kept = PARTS[row["cut"]]
        peaks = [4 * (4 * parameters + min(8, clinic["records"]) * kept) for clinic in clinics]
        assert [clinic["peak_bytes"] for clinic in clinics] == peaks
        assert row["peak_clinic_bytes"] == max(peaks)
