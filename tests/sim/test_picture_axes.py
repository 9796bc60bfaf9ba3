"""What stands on the axes and in the legends of pictures, read from the SVG that Vega draws."""

import re

import pytest
import vl_convert

from sim.report.cost_charts import round_panel, time_panel
from sim.report.course_charts import joining_panel, learning_panel
from sim.report.look import Look, paper, picture_spec, prefixed

LOOKS = [Look("FedAvg", "#0072B2", "circle", (1, 0)), Look("Local", "#999999", "circle", (1, 0))]
NAMES = [look.series for look in LOOKS]


def texts(spec, rows, role):
    svg = vl_convert.vegalite_to_svg({**picture_spec(spec), "data": {"values": rows}})
    groups = re.findall(rf'<g class="mark-text {role}"[^>]*>(.*?)</g>', svg)
    return [re.findall(r"<text[^>]*>([^<]*)</text>", group) for group in groups]


def sheet(width=440):
    return paper(LOOKS, "AUC", "no DP", "Model user", width)


@pytest.mark.parametrize(
    ("seconds", "unit", "largest"),
    [(0.25, "milliseconds", 250), (278.0, "seconds", 278), (900.0, "minutes", 15), (30_000.0, "hours", 30 / 3.6)],
)
def test_times_on_an_axis_have_one_unit(seconds, unit, largest):
    rows = [{"series": name, "level": "no DP", "phase": "upload", "seconds": seconds} for name in NAMES]
    panel = time_panel(sheet(), most=seconds, phases={"upload"})
    assert panel["encoding"]["x"]["title"] == f"Sum in {unit}"
    ticks, _ = texts(panel, rows, "role-axis-label")
    assert [float(tick) for tick in ticks] == sorted(float(tick) for tick in ticks)
    assert largest / 2 < float(ticks[-1]) < 1.5 * largest
    bars = [{"method": "a", "row": "x", "phase": "upload", "start": 0, "end": seconds}]
    drawn = {**round_panel(sheet(), 1, {"a": seconds}, {"upload"}), "params": [{"name": "method", "value": "a"}]}
    assert texts(drawn, bars, "role-axis-label")[0][0] == "0"
    assert texts(drawn, bars, "role-title-text")[0] == [f"a, in {unit}"]


@pytest.mark.parametrize("width", [150, 260, 700])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-0.05, 0.3), (-0.3, 0.05), (-0.02, 0.02)])
def test_no_gain_is_a_tick_of_what_joining_brings(width, low, high):
    row = {"level": "no DP", "against": "training alone", "best": True, "clinic": "a", "records": 9, "mean": 0}
    rows = [row | {"series": name, "lower": low, "upper": high} for name in NAMES]
    panel = joining_panel(sheet(width), 1, grouped=False, against="training alone", word="AUC")
    ticks = [tick.replace("\N{MINUS SIGN}", "-") for tick in texts(panel, rows, "role-axis-label")[0]]
    assert 0.0 in map(float, ticks)
    assert len(ticks) <= 11


def test_learning_curves_say_which_colour_is_which_method():
    row = {"score": "AUC", "level": "no DP", "mean": 0.6, "lower": 0.5, "upper": 0.7, "n": 2}
    rows = [row | {"series": name, "round": step} for name in NAMES for step in range(3)]
    assert texts(learning_panel(sheet(), {"AUC": 0.5}, with_bands=True), rows, "role-legend-label") == [
        [name] for name in NAMES
    ]


@pytest.mark.parametrize(("value", "text"), [("0.02", "20 ms"), ("0", "0 s"), ("2", "2 s"), ("5e-6", "5 µs")])
def test_an_amount_stands_apart_from_its_unit(value, text):
    spec = {"mark": "text", "encoding": {"text": {"value": {"expr": prefixed(value, "s")}}}}
    assert texts(spec, [{}], "role-mark marks") == [[text]]
