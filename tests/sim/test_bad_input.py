"""Values that no scenario can have: `check`, `plan` and `run` say the same one line, end with code 2, leave nothing.

Sizes beyond what can be counted or held, numbers that round to nothing or overflow, and what is no TOML at all.
"""

import signal
from contextlib import contextmanager
from pathlib import Path

import pytest

HEART = Path(__file__).resolve().parents[2] / "scenarios" / "heart.toml"
SMALL = ("seeds=[0]", "sweep={}", "privacy={}", "strategies=[{name='fedavg'}, {name='split'}]")
DP = "privacy={mechanism='dp-sgd', delta=1e-4, %s}"
CLINIC = "privacy={mechanism='clinic-level', delta=1e-4, %s}"
ROWS = "privacy={mechanism='dp-sgd+smashed-noise', noise-multiplier=1, delta=1e-4, %s}"
MADE = "clinics=[{profile='hospital'}]", "data={source='synthetic', clinics=4, records=1000, %s}"
LONG = "9" * 401
HUGE = "9" * 5000  # more digits than Python reads
BIG = "1" + "0" * 15
COUNTED = {
    "train.rounds": "train.rounds=%s",
    "train.batch-size": "train.batch-size=%s",
    "train.local-epochs": "train.local-epochs=%s",
    "model.hidden.1": "model.hidden=[4, %s]",
    "server.workers": "server.workers=%s",
    "clinics.1.count": "clinics.1={profile='rural-dsl', count=%s}",
    "data.clinics": "data={source='heart-disease', split='iid', clinics=%s}",
    "data.records": "data={source='synthetic', clinics=4, records=%s}",
    "data.features": MADE[1] % "features=%s",
    "data.classes": MADE[1] % "classes=%s",
}
"""Keys that hold a whole number."""
MEASURED = {
    "train.learning-rate": "train.learning-rate=%s",
    "train.over-select": "train.over-select=%s",
    "train.class-weights.0": "train.class-weights=[%s, 1]",
    "strategies.0.proximal-mu": "strategies.0={name='fedprox', proximal-mu=%s}",
    "privacy.epsilon": DP % "epsilon=%s",
    "privacy.noise-multiplier": DP % "noise-multiplier=%s",
    "privacy.clip": DP % "noise-multiplier=1, clip=%s",
    "privacy.delta": "privacy={mechanism='dp-sgd', noise-multiplier=1, delta=%s}",
    "privacy.stop-at-epsilon": DP % "noise-multiplier=1, stop-at-epsilon=%s",
    "privacy.smashed-noise-multiplier": ROWS % "smashed-noise-multiplier=%s",
    "privacy.epsilon-server": ROWS % "epsilon-server=%s",
    "privacy.smashed-clip": ROWS % "smashed-noise-multiplier=1, smashed-clip=%s",
    "privacy.label-epsilon": "privacy={mechanism='label-rr', label-epsilon=%s}",
    "privacy.adaptive-rate": CLINIC % "noise-multiplier=1, adaptive-quantile=0.5, adaptive-rate=%s",
    "privacy.adaptive-count-noise": CLINIC % "noise-multiplier=1, adaptive-quantile=0.5, adaptive-count-noise=%s",
    "data.alpha": "data={source='heart-disease', split='quantity', clinics=4, alpha=%s}",
    "data.shift": "data={source='heart-disease', split='feature-shift', clinics=4, shift=%s}",
    "data.signal": MADE[1] % "signal=%s",
    "data.size-spread": MADE[1] % "size-spread=%s",
    "clinics.0.straggler.slowdown": "clinics.0.straggler={chance=0.5, slowdown=%s}",
    "clinics.0.spread": "clinics.0.spread=%s",
}
"""Keys that hold a measure."""
VALUES = [
    *((place, key % value) for place, key in COUNTED.items() for value in ("1e308", BIG, LONG, "-1", "nan", "inf")),
    *((place, key % value) for place, key in MEASURED.items() for value in ("1e308", LONG, "-1", "nan")),
    *(
        (place, MEASURED[place] % value)
        for place, value in [
            ("privacy.epsilon", "1e-300"),
            ("privacy.epsilon", "0"),
            ("privacy.delta", "0"),
            ("privacy.delta", "1"),
            ("privacy.delta", "1e-400"),
            ("privacy.delta", "1e-300"),
            ("privacy.noise-multiplier", "1e-320"),
            ("privacy.noise-multiplier", "inf"),
            ("privacy.clip", "0"),
            ("privacy.clip", "inf"),
            ("privacy.clip", "1e-320"),
            ("train.class-weights.0", "1e-320"),
            ("train.learning-rate", "inf"),
        ]
    ),
    ("train.class-weights", "train.class-weights=[1.0]"),
    ("train.class-weights", "train.class-weights=[]"),
    ("sweep.train.rounds.x", "sweep={'train.rounds.x'=[1]}"),
    ("sweep.train.rounds.x", "sweep={'train.rounds.x'=[1, 2]}"),
    ("sweep", f"sweep={{'train.momentum'={[i / 200 for i in range(101)]}, 'train.rounds'={[*range(1, 101)]}}}"),
    ("sweep.train.rounds.1", f"sweep={{'train.rounds'=[1, {LONG}]}}"),
    ("seeds.0", f"seeds=[{2**63}]"),
    ("seeds.0", f"seeds=[{LONG}]"),
    ("model.cut", f"model.cut={LONG}"),
    ("train.batch-size", f"train.batch-size={2**63}"),
    ("train.batch-size", "train.batch-size=0x" + "f" * 5000),
    ("train.rounds", f"train.rounds={HUGE}"),
    ("train.rounds", "train.rounds=" + "[" * 3000 + "]" * 3000),
    ("train.rounds", "train.rounds=" + "{a=" * 3000 + "1" + "}" * 3000),
    ("train.rounds.0", "train.rounds=" + "[" * 30 + "]" * 30),
    ("model.hidden", f"model.hidden={[1] * 2000}"),
    ("model", "model.hidden=[1000000, 1000000]"),  # 4 TB of parameters
    ("train", "train.local-epochs=100000"),  # fits, and never ends
    ("clinics.0.profile", "clinics.0.profile={hospital=1e308, rural-dsl=1e308}"),
    ("clinics.0.availability.mean-outage", "clinics.0.availability={share=0.5, mean-outage=1e308}"),
    ("clinics.0.sites", f"clinics.0.sites={LONG}"),
    ("name", 'name="a\\u0000b"'),
    ("model.public-head", 'model={name="mlp", freeze=["head"], public-head="a\\u0000.safetensors"}'),
    ("model.public-head", 'model={name="mlp", freeze=["head"], public-head="/"}'),
    ("[a]#", "[a]#=1"),
    ("#", "#=1"),
    ("a" + ".b" * 20, "a" + ".b" * 3000 + "=1"),
    ("train.rounds", "train.rounds=1\nx=2"),
    ("clinics." + "9" * 30, "clinics." + "9" * 5000 + "=1"),
]


@contextmanager
def at_most(seconds):
    """End what hangs."""

    def end(*_):
        pytest.fail(f"hangs for more than {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(suture, tmp_path, file, *arguments):
    """Give a scenario to the three commands; return the lines that all of them say."""
    said = []
    for command, own in (("check", ()), ("plan", ()), ("run", ("--out", tmp_path / "out"))):
        with at_most(30):
            code, printed, err = suture(command, file, *arguments, *own)
        assert (code, printed) == (2, ""), (command, err)
        assert "Traceback" not in err
        said.append(err.splitlines())
    assert said[0] == said[1] == said[2]
    assert not (tmp_path / "out").exists()
    return said[0]


def settings(*overrides):
    return [word for override in overrides for word in ("--set", override)]


@pytest.mark.parametrize(
    ("place", "override"), VALUES, ids=[f"{i}-{place[:40]}" for i, (place, _) in enumerate(VALUES)]
)
def test_each_value_is_one_line_in_every_command(suture, tmp_path, place, override):
    scene = settings(*SMALL, override)
    found = refused(suture, tmp_path, HEART, *scene)
    assert len(found) == 1, found
    assert found[0].startswith(f"{HEART}: {place}"), found
    told, _, mend = found[0].partition("; ")
    assert mend or "write it" in told, found
    assert len(found[0]) < 500


@pytest.mark.parametrize(
    ("made", "gigabytes"),
    [
        ("records=1000000000000", "240,000 GB"),
        ("records=10000000, features=1000000", "80,001 GB"),
        ("records=100000000000, classes=256", "430,400 GB"),
    ],
)
def test_records_that_fit_in_no_memory_are_told_with_their_size(suture, tmp_path, made, gigabytes):
    data = f"data={{source='synthetic', clinics=4, {made}}}"
    [line] = refused(suture, tmp_path, HEART, *settings(*SMALL, "clinics=[{profile='hospital'}]", data))
    assert "data.records: " in line
    assert f"take {gigabytes} of memory, and this machine has " in line


@pytest.mark.parametrize(
    "override",
    [
        "train.batch-size=100000",
        "train.learning-rate=1e-300",
        "train.participation=1e-320",
        "train.momentum=0.9999999999999999",
        "data.test-share=1e-320",
        f"seeds=[{2**63 - 1}]",
        "clinics.0.availability={share=1e-320}",
        CLINIC % "noise-multiplier=1e-9",
        CLINIC % "noise-multiplier=1e9",
        DP % "noise-multiplier=1e9",
        DP % "noise-multiplier=1, clip=1e-9",
        DP % "noise-multiplier=0, clip=inf",
        "privacy={mechanism='dp-sgd', noise-multiplier=1, delta=1e-12}",
    ],
)
def test_what_is_odd_but_possible_is_planned(suture, override):
    code, _, err = suture("plan", HEART, *settings(*SMALL[:3], "strategies=[{name='fedavg'}]", override))
    assert code == 0, err
    assert "Traceback" not in err


def test_all_that_is_wrong_is_said_at_once(suture, tmp_path):
    overrides = ("train.rounds=-1", "privacy.epsilon=1e308", "train.class-weights=[1.0]", "train.momentum=nan", "#=1")
    found = refused(suture, tmp_path, HEART, *settings(*SMALL, *overrides))
    places = [line.removeprefix(f"{HEART}: ").partition(":")[0] for line in found]
    assert sorted(places) == sorted(["#", "train.rounds", "privacy.epsilon", "train.class-weights", "train.momentum"])
