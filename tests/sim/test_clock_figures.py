"""Pictures of the clock: the bars hold the clock's seconds, and the crossings stand where they were worked out."""

import re
from dataclasses import replace

import numpy as np
import pytest
from support import write_csv
from typer.testing import CliRunner

from sim.cli import app
from sim.foundation.text import seconds_text
from sim.plan.drawn_round import round_frame, round_words
from sim.plan.first_round import FirstRound, crossings, uplink_seconds
from sim.plan.load import Leg, RoundLoad
from sim.plan.queues import PlanClock
from sim.report.clock_figures import crossing_sentences, uplink_chart
from sim.report.cost_charts import round_chart
from sim.scenario.clinics import ClinicResources, ServerResources

VANILLA = (
    *(Leg("clinic", 1), Leg("up", 512), Leg("server", 30)),
    *(Leg("down", 512), Leg("clinic", 2)),
)


def played(lanes, steps, workers=2, handed_on=False):
    resources = [
        ClinicResources(
            name=f"k{k}", uplink_bits_per_s=4096, downlink_bits_per_s=4096 / (1 + k), latency_s=1, compute_flop_per_s=1
        )
        for k in range(lanes)
    ]
    rows = np.ones(steps * lanes, dtype=np.int64)
    schedule = tuple((k, s) for k in range(lanes) for s in range(steps)) if handed_on else None
    ones = np.ones(lanes, dtype=np.int64)
    load = RoundLoad(
        clinics=np.arange(lanes),
        rows=rows,
        steps=steps * ones,
        legs=VANILLA,
        begin_bytes=2048,
        end_bytes=2048,
        turns=ones,
        schedule=schedule,
        handed_on=handed_on,
        common_server_flops=0.0,
    )
    names = [clinic.name for clinic in resources]
    return load, PlanClock(resources, ServerResources(1.0, workers)).play(load), names


@pytest.mark.parametrize("steps", [2, 60])
def test_the_bars_hold_what_the_clock_counts(steps):
    """Also where hundreds of bars are drawn as fewer."""
    load, time, names = played(3, steps)
    frame = round_frame(load, time, names)
    assert frame.groupby("row").size().max() <= 5 * 80 + 2
    seconds = (frame["end"] - frame["start"]).groupby([frame["row"], frame["phase"]]).sum()
    for lane, name in enumerate(names):
        for phase, spent in time.phases.items():
            assert seconds[name, phase] == pytest.approx(spent[lane], rel=1e-9)
        assert seconds.get((name, "waiting"), 0.0) == pytest.approx(time.waiting[lane], abs=1e-6)
    served = sum(seconds[f"server, worker {worker}", "server"] for worker in (1, 2))
    assert served == pytest.approx(time.phases["server"].sum())


def test_no_two_bars_of_a_row_lie_on_each_other():
    frame = round_frame(*played(3, 60))
    for _, own in frame.groupby("row"):
        assert (own["start"].to_numpy()[1:] >= own["end"].to_numpy()[:-1] - 1e-9).all()


def test_who_finishes_last_stands_on_top_and_of_many_clinics_twenty_are_drawn():
    load, time, names = played(50, 1)
    frame = round_frame(load, time, names)
    shown = [row for row in dict.fromkeys(frame["row"]) if not row.startswith("server")]
    assert len(shown) == 20
    assert shown[0] == names[int(time.finish.argmax())]
    assert shown[-1] == names[int(time.finish.argmin())]
    words = round_words(load, time, names)
    assert f"{shown[0]} finishes last" in words[0]
    assert words[2] == "20 of 50 clinics are drawn."
    assert round_chart(frame, "V1", ["words"])["title"]["subtitle"] == ["words"]


def test_in_a_relay_nobody_waits_in_line():
    load, time, names = played(3, 2, handed_on=True)
    assert "waiting" not in set(round_frame(load, time, names)["phase"])


def test_no_clinic_of_a_relay_is_drawn_before_its_turn():
    """Also where its turn begins in the middle of a window in which many bars are drawn as one."""
    load, time, names = played(3, 60, handed_on=True)
    frame = round_frame(load, time, names)
    for lane, name in enumerate(names):
        begins = min(span.start for span in time.spans if span.lane == lane)
        own = frame[frame["row"] == name]
        assert own["start"].min() == pytest.approx(begins, abs=1e-9)
        assert own["end"].max() <= time.finish[lane] * (1 + 1e-9)


def test_the_words_say_what_the_deadline_ends_and_that_a_wait_is_short():
    load, time, names = played(3, 2)
    waits = f"Together, the clinics wait {seconds_text(float(time.waiting.sum()))} for the server."
    assert round_words(load, time, names, deadline=float(time.finish.max()))[1:] == [waits]
    cut = round_words(load, time, names, deadline=float(time.finish.max()) - 0.1)
    assert cut[1] == waits
    assert cut[2].startswith("The deadline ends the round after ")
    more = "With over-selection of 1.5, the round would not wait for the slowest."
    assert round_words(load, time, names, over_select=1.5)[2] == more
    hardly = replace(time, seconds=1e3 * float(time.waiting.sum()))
    assert "wait for the server for less than a thousandth" in round_words(load, hardly, names)[1]


def messages(method, family, end_bytes, flops):
    """One clinic that works for `flops` seconds and sends one message."""
    one = np.ones(1, dtype=np.int64)
    load = RoundLoad(
        clinics=0 * one,
        rows=one,
        steps=one,
        legs=(Leg("clinic", flops),),
        begin_bytes=0,
        end_bytes=end_bytes,
        turns=one,
        schedule=None,
        handed_on=False,
        common_server_flops=0.0,
    )
    clinic = ClinicResources(
        name="k", uplink_bits_per_s=1e6, downlink_bits_per_s=1e6, latency_s=0.1, compute_flop_per_s=1.0
    )
    return FirstRound(
        method=method, family=family, names=("k",), load=load, resources=(clinic,), server=ServerResources(1.0)
    )


def test_methods_change_places_where_the_larger_message_takes_what_the_longer_work_takes():
    """8 (10^6 + 512) / r + 1 = 8 (2 * 10^6 + 512) / r, that is r = 8 Mbit/s."""
    rounds = [messages("FedAvg", "FL", 2_000_000, 1), messages("V1", "SplitFed", 1_000_000, 2)]
    seconds = uplink_seconds(rounds)
    [crossing] = crossings(rounds, seconds)
    assert crossing.uplink == pytest.approx(8e6, rel=1e-4)
    assert crossing.seconds == pytest.approx(0.1 + 1 + 2 + 512 / 1e6, rel=1e-4)
    [sentence] = crossing_sentences([crossing])
    assert sentence == "FedAvg is faster than V1 above 8 Mbit/s (3.1 s a round)."
    assert sentence in uplink_chart(rounds, seconds, [crossing])["description"]


def test_methods_of_one_family_have_no_crossing():
    rounds = [messages("V1", "SplitFed", 2_000_000, 1), messages("V3", "SplitFed", 1_000_000, 2)]
    assert crossings(rounds, uplink_seconds(rounds)) == []


def test_suture_plan_draws_every_method_that_sends_something(tmp_path):
    write_csv(tmp_path / "data.csv")
    (tmp_path / "study.toml").write_text(
        """
name = "drawn"
seeds = [0, 1]
[data]
source = "csv"
path = "data.csv"
label = "label"
clinic = "clinic"
features = ["x0", "x1"]
scaling = "none"
[model]
name = "mlp"
[evaluation]
reference = false
[train]
rounds = 2
batch-size = 8
learning-rate = 0.1
[[strategies]]
name = "local"
[[strategies]]
name = "fedavg"
[[strategies]]
name = "split"
cut = ["vanilla", "u-shaped"]
""",
        encoding="utf-8",
    )
    done = CliRunner().invoke(app, ["plan", str(tmp_path / "study.toml"), "--figures", str(tmp_path / "figures")])
    assert done.exit_code == 0, done.output
    stems = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    methods = {"fedavg", "split_learning_vanilla", "split_learning_u_shaped"}
    assert stems == {f"round_{method}" for method in methods} | {"round_time_by_uplink", "clinic_effort"}
    assert {path.stem for path in (tmp_path / "figures").glob("*.png")} == stems
    drawn = (tmp_path / "figures" / "round_fedavg.svg").read_text(encoding="utf-8")
    assert re.search("FedAvg: the first round, if every clinic is available", drawn)
