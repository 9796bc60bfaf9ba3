"""What each clinic holds, as a frame, a table and a figure."""

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from sim.commands.explain import holdings
from sim.data.federation import Federation, Records, load_federation
from sim.report.holdings import holdings_frame, holdings_picture, holdings_table
from sim.report.pictures import draw
from sim.scenario.data import HeartDisease, Synthetic


def federation(counts, classes, names=None):
    """Make one with ``counts[part][clinic][class]`` records; the parts are training, validation and held-out."""
    parts = []
    for part in counts:
        y = np.concatenate([np.repeat(np.arange(len(classes)), own) for own in part])
        offsets = np.concatenate([[0], np.cumsum([sum(own) for own in part])])
        parts.append(Records(np.zeros((len(y), 1), np.float32), y, offsets))
    train, validation, test = parts
    names = names or tuple(f"k{clinic}" for clinic in range(len(counts[0])))
    return Federation(
        names=names,
        test_names=names,
        everyone=names,
        features=("x",),
        classes=tuple(classes),
        train=train,
        test=test,
        validation=validation,
        statistics={},
    )


SMALL = federation(
    [[[3, 1], [0, 5]], [[1, 0], [0, 0]], [[2, 1], [0, 3]]], ["well", "ill"], names=("north [bold]", "south")
)


def rendered(table):
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_frame_by_hand():
    pd.testing.assert_frame_equal(
        holdings_frame(holdings(SMALL)),
        pd.DataFrame(
            {
                "clinic": ["north [bold]", "south"],
                "training": [4, 5],
                "validation": [1, 0],
                "held-out": [3, 3],
                "share of well": [6 / 8, 0.0],
                "share of ill": [2 / 8, 1.0],
            }
        ),
    )


def test_frame_agrees_with_pandas():
    loaded = load_federation(HeartDisease(validation_share=0.2), seed=0)
    frame = holdings_frame(holdings(loaded)).set_index("clinic")
    assert frame[["training", "validation", "held-out"]].sum(axis=1).tolist() == [303, 261, 46, 130]
    for column, part in (("training", loaded.train), ("validation", loaded.validation), ("held-out", loaded.test)):
        assert frame[column].tolist() == np.diff(part.offsets).tolist()
    assert frame.loc["switzerland", "share of disease"] == 45 / 46
    np.testing.assert_allclose(frame.filter(like="share").sum(axis=1), 1)


def test_table_has_a_row_a_clinic_and_one_for_all():
    lines = rendered(holdings_table(holdings(SMALL))).splitlines()
    rows = [line.split() for line in lines if "%" in line]
    assert rows == [
        ["north", "[bold]", "4", "1", "3", "75.0%", "25.0%"],
        ["south", "5", "0", "3", "0.0%", "100.0%"],
        ["all", "9", "1", "6", "37.5%", "62.5%"],
    ]


def test_a_long_name_leaves_room_for_the_numbers():
    long = federation([[[300, 10], [5, 5]], [[0, 0], [0, 0]], [[2, 1], [0, 3]]], ["well", "ill"], ("x" * 300, "south"))
    rows = [line.split() for line in rendered(holdings_table(holdings(long))).splitlines() if "%" in line]
    assert rows[0][1:] == ["310", "0", "3", "96.5%", "3.5%"]
    assert rows[0][0].endswith("…")


def test_table_of_many_clinics_has_quantiles_and_extremes():
    loaded = load_federation(Synthetic(clinics=101, records=20_000), seed=0)
    text = rendered(holdings_table(holdings(loaded)))
    rows = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if "%" in line}
    frame = holdings_frame(holdings(loaded))
    sizes = frame["training"] + frame["held-out"]
    assert rows["median"][1] == f"{frame['training'].median():,.0f}"
    assert rows["maximum"][-1] == f"{frame['share of 1'].max():.1%}"
    assert rows["all"][1] == f"{frame['training'].sum():,}"
    extremes = frame["clinic"][[*sizes.nlargest(3).index, *sizes.nsmallest(3).index]]
    assert set(extremes) <= set(rows)
    assert len(rows) == 5 + 6 + 1
    assert "Quantiles over 101 clinics" in text


def test_table_of_many_classes_shows_the_most_frequent_and_fits():
    counts = [[[label + 1 for label in range(12)]] * 3] * 3
    text = rendered(holdings_table(holdings(federation(counts, [f"class {label}" for label in range(12)]))))
    assert "The 7 most frequent of 12 classes." in text
    assert all(len(line) <= 120 for line in text.splitlines())
    assert len([line for line in text.splitlines() if line.count("%") == 7]) == 4


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (SMALL, ["north [bold]", "south", "well", "ill"]),
        (federation([[[5, 2]] * 60] * 3, ["well", "ill"]), ["Records of a clinic", 'Share of "ill" in a clinic']),
        (
            federation([[[k, 1, 2] for k in range(60)]] * 3, ["a", "b", "c"]),
            ["Records of a clinic", "Share of each class in a clinic"],
        ),
        (federation([[[1] * 12] * 4] * 3, [f"class {label}" for label in range(12)]), ["5 other classes"]),
        (federation([[[4]] * 50] * 3, ["ill"]), ["Records of a clinic"]),
    ],
)
def test_figure_is_drawn_for_few_and_many_clinics(tmp_path, made, words):
    paths = draw({"holdings": holdings_picture(holdings(made))}, tmp_path / "new")
    assert [path.name for path in paths] == ["holdings.png", "holdings.svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    text = " ".join(ET.parse(paths[1]).getroot().itertext())  # noqa: S314
    total = len(made.train.y) + len(made.validation.y) + len(made.test.y)
    for word in (*words, f"{len(made.names)} clinics with {total:,} records"):
        assert word in text


def test_bars_are_as_long_as_the_counts(tmp_path):
    _, svg = draw({"holdings": holdings_picture(holdings(SMALL))}, tmp_path)
    labels = [
        element.get("aria-label") or ""
        for element in ET.parse(svg).getroot().iter()  # noqa: S314
        if element.get("aria-roledescription") == "bar"
    ]
    for clinic, name, records in (("north [bold]", "well", 6), ("north [bold]", "ill", 2), ("south", "ill", 8)):
        [label] = [label for label in labels if f"clinic: {clinic}" in label and f"Class: {name}" in label]
        assert f": {records};" in label
