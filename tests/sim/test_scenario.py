import math
import pickle
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from sim.problems import ScenarioError
from sim.scenario import Csv, Privacy, Scenario, Train, load_scenario, parse_scenario

BASE = """
name = "heart"
seeds = [0, 1]
[data]
source = "heart-disease"
[model]
name = "mlp"
[train]
rounds = 30
batch-size = 16
learning-rate = 0.05
[[clinics]]
profile = "hospital"
sites = ["cleveland"]
[[clinics]]
profile = "rural-dsl"
[[strategies]]
name = "fedavg"
[[strategies]]
name = "splitfed-v1"
cut = ["vanilla", "u-shaped"]
[[strategies]]
name = "flwr.serverapp.strategy.FedAdam"
options = { eta = 0.1, accept-failures = true }
"""
CSV = (
    'data = {source="csv", path="p.csv", label="y", clinic="c", features=["age", "bmi"], '
    'missing={bmi=25, age="drop"}, ranges={bmi=[10, 60]}}'
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "heart.toml"
    path.write_text(BASE, encoding="utf-8")
    return path


def lines(path, *overrides, only=()):
    """Return the problems, each without the file's name, which every line must start with."""
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path, overrides, only)
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in caught.value.problems)
    return [line.removeprefix(f"{path}: ") for line in caught.value.problems]


def test_defaults_are_the_documented_ones(file):
    scenario = load_scenario(file)
    assert scenario.seeds == (0, 1)
    assert (scenario.data.test_share, scenario.data.scaling, scenario.data.one_class) == (0.34, "public", "refuse")
    assert (scenario.model.hidden, scenario.model.cut, scenario.model.head) == ((32, 16), 1, "binary")
    assert (scenario.train.momentum, scenario.train.participation) == (0.9, 1.0)
    assert (scenario.server.compute, scenario.server.workers) == (10e12, 4)
    assert scenario.privacy == Privacy(mechanism="none", epsilon=None, noise_multiplier=None, clip=1.0, delta=None)
    assert [strategy.cut for strategy in scenario.strategies] == [(), ("vanilla", "u-shaped"), ()]
    assert scenario.strategies[2].options == {"eta": 0.1, "accept-failures": True}
    assert load_scenario(file, ["strategies.1={name='splitfed-v1'}"]).strategies[1].cut == ("vanilla",)


def test_without_clinics_all_are_hospitals():
    mapping = tomllib.loads(BASE)
    del mapping["clinics"]
    [group] = parse_scenario(mapping, Path()).clinics
    assert (group.profile, group.sites) == ("hospital", None)


def test_objects_are_frozen(file):
    scenario = load_scenario(file)
    with pytest.raises(ValidationError, match="frozen"):
        scenario.train.rounds = 3


def test_dump_parses_again(file):
    scenario = load_scenario(file, ['sweep."privacy.epsilon"=[1, inf]', "privacy={mechanism='dp-sgd', delta=1e-4}"])
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
    assert "NaN" not in scenario.model_dump_json()
    assert "Infinity" not in scenario.model_dump_json()
    assert Scenario.model_json_schema()["additionalProperties"] is False


@pytest.mark.parametrize(
    ("override", "place", "expected"),
    [
        ("train.rounds=5", "train.rounds", 5),
        ("seeds=[1,2]", "seeds", (1, 2)),
        ('model.name="logistic"', "model.name", "logistic"),
        ("model.name=logistic", "model.name", "logistic"),
        ("model.cut=[1, -1]", "model.cut", (1, -1)),
        ("model.cut=2", "model.cut", 2),
        (' train.learning-rate = "0.1"', None, None),
        ("server.workers=1", "server.workers", 1),
        ("privacy={mechanism='dp-sgd', epsilon=inf, delta=0.1}", "privacy.epsilon", math.inf),
    ],
)
def test_overrides_take_toml_values(file, override, place, expected):
    if place is None:
        assert lines(file, override) == ['train.learning-rate: "0.1" is not a number; give one such as 0.5']
        return
    found = load_scenario(file, [override])
    for part in place.split("."):
        found = getattr(found, part)
    assert found == expected


def test_overrides_reach_into_lists_and_take_text_without_quotes(file):
    scenario = load_scenario(
        file, ['clinics.0.uplink="1 Mbit/s"', "clinics.1.latency=2 s", "clinics.1.profile=hospital"]
    )
    assert scenario.clinics[0].uplink == 1e6
    assert (scenario.clinics[1].latency, scenario.clinics[1].profile) == (2.0, "hospital")


def test_later_overrides_win(file):
    assert load_scenario(file, ["train.rounds=5", "train.rounds=6"]).train.rounds == 6


def test_only_keeps_the_named_strategies_in_file_order(file):
    kept = load_scenario(file, only=["splitfed-v1", "fedavg"]).strategies
    assert [strategy.name for strategy in kept] == ["fedavg", "splitfed-v1"]
    assert lines(file, only=["splitfed"]) == [
        'strategies: "splitfed" is not listed, so it cannot be picked; did you mean "splitfed-v1"?'
    ]


def test_csv_path_is_relative_to_the_file(file, tmp_path):
    data = load_scenario(file, [CSV]).data
    assert data.path == tmp_path / "p.csv"
    assert (data.missing, data.ranges) == ({"bmi": 25.0, "age": "drop"}, {"bmi": (10.0, 60.0)})
    elsewhere = load_scenario(file, [CSV.replace("p.csv", "/elsewhere/p.csv")]).data
    assert elsewhere.path == Path("/elsewhere/p.csv")


DP = "privacy={mechanism='dp-sgd', delta=1e-4, %s}"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        # names of keys and choices
        ("train.local-epoch=1", 'train.local-epoch: unknown key; did you mean "local-epochs"?'),
        ("train.local_epochs=1", 'train.local_epochs: unknown key; did you mean "local-epochs"?'),
        ("trian.rounds=1", 'trian: unknown key; did you mean "train"?'),
        ("data.scalling='public'", 'data.scalling: unknown key; did you mean "scaling"?'),
        ("clinics.0.uplnk='1 bit/s'", 'clinics.0.uplnk: unknown key; did you mean "uplink"?'),
        ("strategies.0.nmae='x'", 'strategies.0.nmae: unknown key; did you mean "name"?'),
        ("server.x=1", 'server.x: unknown key; choose "compute", "workers", "uplink" or "downlink"'),
        ("model.name=mpl", 'model.name: "mpl" does not exist; did you mean "mlp"?'),
        ("model.name=cnnx", 'model.name: "cnnx" does not exist; did you mean "cnn"?'),
        (
            "train.optimizer=momentun",
            'train.optimizer: "momentun" does not exist; did you mean "momentum"?',
        ),
        ("data.source=hart-disease", 'data.source: "hart-disease" does not exist; did you mean "heart-disease"?'),
        ("strategies.0.name=fedav", 'strategies.0.name: unknown strategy "fedav"; did you mean "fedavg"?'),
        (
            "strategies.0.name=a..b",
            'strategies.0.name: unknown strategy "a..b"; choose "centralised", "local", "fedavg", "fedprox", "split", '
            '"splitfed-v1", "splitfed-v2" or "splitfed-v3"',
        ),
        ("clinics.0.profile=hospitals", 'clinics.0.profile: unknown profile "hospitals"; did you mean "hospital"?'),
        ("strategies.1.cut=['u-shape']", 'strategies.1.cut.0: "u-shape" does not exist; did you mean "u-shaped"?'),
        # wrong kinds
        ("train=5", "train: 5 is not a table; write it as one"),
        ("data=5", "data: 5 is not a table; write it as one"),
        ("data={}", "data.source: is missing; add this key"),
        ("seeds=3", "seeds: 3 is not a list; write it in square brackets"),
        ("seeds=[]", "seeds: is empty; give at least one value"),
        ("strategies=[]", "strategies: is empty; give at least one value"),
        ("clinics=[]", "clinics: is empty; give at least one value"),
        ("train.rounds=1.5", "train.rounds: 1.5 is not a whole number; give one such as 5"),
        ("train.rounds=true", "train.rounds: true is not a whole number; give one such as 5"),
        ('train.rounds="5"', 'train.rounds: "5" is not a whole number; give one such as 5'),
        ("name=5", "name: 5 is not text; write it in quotes"),
        # ranges
        ("train.rounds=-1", "train.rounds: -1 is out of range; give a number of at least 0"),
        ("train.local-epochs=0", "train.local-epochs: 0 is out of range; give a number of at least 1"),
        ("train.batch-size=0", "train.batch-size: 0 is out of range; give a number of at least 1"),
        ("train.learning-rate=0", "train.learning-rate: 0 is out of range; give a number greater than 0"),
        ("train.learning-rate=inf", "train.learning-rate: inf is not a finite number; give one"),
        ("train.learning-rate=nan", "train.learning-rate: nan is not a finite number; give one"),
        ("train.participation=1.1", "train.participation: 1.1 is out of range; give a number of at most 1"),
        ("train.momentum=1", "train.momentum: 1 is out of range; give a number less than 1"),
        ("data.test-share=1", "data.test-share: 1 is out of range; give a number less than 1"),
        ("data.test-share=0", "data.test-share: 0 is out of range; give a number greater than 0"),
        ("seeds=[-1]", "seeds.0: -1 is out of range; give a number of at least 0"),
        ("seeds=[1,1]", "seeds: [1, 1] has a value twice; name each once"),
        ("model.hidden=[0]", "model.hidden.0: 0 is out of range; give a number greater than 0"),
        (
            "model.cut=[1,2,3]",
            "model.cut: [1, 2, 3] is no cut; give a block number such as 1, or two such as [1, -1]",
        ),
        # units
        (
            "clinics.0.uplink=5",
            'clinics.0.uplink: 5 is not a number with a unit; give a data rate such as "10 Mbit/s"',
        ),
        (
            "clinics.0.uplink=40 ms",
            'clinics.0.uplink: "40 ms" is of the wrong kind; give a data rate such as "10 Mbit/s"',
        ),
        (
            "server.compute=0 FLOP/s",
            'server.compute: "0 FLOP/s" is not positive and finite; give a compute rate such as "2 TFLOP/s"',
        ),
        # names of folders
        *(
            (
                f"name='{name}'",
                f"name: \"{name}\" cannot name a folder; use up to 64 of a-z, 0-9, '-', '_' and single '.', "
                "the first a letter or digit",
            )
            for name in ("../x", "a/b", "a..b", ".a", "<b>", "Heart", "", "a b")
        ),
        # clinics
        (
            "clinics.0={profile='hospital'}",
            "clinics: more than one group has no sites; name the sites of all groups but one",
        ),
        (
            "clinics.0={uplink='1 bit/s'}",
            "clinics.0: downlink, latency, compute not given; name a profile, or give all four rates",
        ),
        ("clinics.0.sites=['a','a']", 'clinics.0.sites: ["a", "a"] has a value twice; name each once'),
        ("clinics.2.profile=x", 'clinics.2.profile: there is no element "2"; the list has 2, counted from 0'),
        # privacy
        (DP % "epsilon=0", "privacy.epsilon: 0 is out of range; give a number greater than 0"),
        (DP % "epsilon=nan", "privacy.epsilon: nan is out of range; give a number greater than 0"),
        (
            DP % "epsilon=1, noise-multiplier=1",
            "privacy.epsilon: is given beside noise-multiplier; keep one of the two",
        ),
        (
            DP % "clip=1",
            "privacy.epsilon: neither this nor noise-multiplier is given; add a target such as epsilon = 3",
        ),
        (DP % "noise-multiplier=-1", "privacy.noise-multiplier: -1 is out of range; give a number of at least 0"),
        (DP % "noise-multiplier=inf", "privacy.noise-multiplier: inf is not a finite number; give one"),
        (
            DP % "noise-multiplier=1, clip=inf",
            "privacy.clip: inf is only for noise-multiplier = 0; give a finite norm such as 1.0",
        ),
        (
            DP % "epsilon=1, clip=inf",
            "privacy.clip: inf is only for noise-multiplier = 0; give a finite norm such as 1.0",
        ),
        (
            "privacy={mechanism='dp-sgd', epsilon=1}",
            "privacy.delta: is missing; give one below 1 / (records of the smallest clinic), such as 1e-4",
        ),
        ("privacy={epsilon=1}", 'privacy.epsilon: has no effect without a mechanism; add mechanism = "dp-sgd"'),
        (
            "privacy={noise-multiplier=1}",
            'privacy.noise-multiplier: has no effect without a mechanism; add mechanism = "dp-sgd"',
        ),
        ("privacy.delta=1", "privacy.delta: 1 is out of range; give a number less than 1"),
        # strategies
        (
            "strategies.0.cut=vanilla",
            "strategies.0.cut: fedavg does not cut the model; remove cut, or take splitfed-v1",
        ),
        (
            "strategies.0.options={a=1}",
            "strategies.0.options: fedavg takes none; remove them, or name a strategy by its import path",
        ),
        (
            "strategies.2.options={a=[1]}",
            "strategies.2.options.a: [1] is not a single value; give a number, text, true or false",
        ),
        (
            "strategies.0.name=splitfed-v1",
            'strategies: "splitfed-v1" is listed twice; list it once, or give each a label of its own',
        ),
        # csv
        (CSV.replace('"bmi"]', '"y"]'), 'data.features: "y" is the label column; take it out of the features'),
        (CSV.replace('"bmi"]', '"c"]'), 'data.features: "c" is the clinic column; take it out of the features'),
        (CSV.replace('label="y", ', ""), "data.label: is missing; add this key"),
        (
            CSV.replace('"drop"', '"mean"'),
            'data.missing.age: "mean" is no constant; give a number to fill in, or "drop" to drop the column',
        ),
        (
            CSV.replace("[10, 60]", "[60, 10]"),
            "data.ranges.bmi: [60, 10] is not a range; give [lowest, highest] as two numbers",
        ),
        (
            CSV.replace("[10, 60]", "[0, inf]"),
            "data.ranges.bmi: [0, inf] is not a range; give [lowest, highest] as two numbers",
        ),
        # sweep
        ("sweep={'train.rouns'=[1]}", 'sweep.train.rouns: unknown key; did you mean "train.rounds"?'),
        (
            "sweep={'clinics.0.uplink'=['1 bit/s']}",
            "sweep.clinics.0.uplink: cannot be swept; choose a key of [data], [model], [train], [server], [privacy]",
        ),
        (
            "sweep={'train.rounds'=[]}",
            "sweep.train.rounds: [] is not a list of values; give at least one in square brackets",
        ),
        ("sweep={'train.rounds'=[1,1]}", "sweep.train.rounds: [1, 1] has a value twice; name each once"),
        ("sweep={'train.rounds'=[-1,2]}", "sweep.train.rounds: -1 is out of range; give a number of at least 0"),
        ("sweep={'train.rounds'=[2,-1]}", "sweep.train.rounds: -1 is out of range; give a number of at least 0"),
        ("sweep={'train.learning-rate'=[1,nan]}", "sweep.train.learning-rate: nan is not a finite number; give one"),
        (
            "sweep={'train.rounds'=[2,[1]]}",
            "sweep.train.rounds: [1] is not a single value; give a number, text, true or false",
        ),
        ("sweep.train.rounds=[1, 'x']", 'sweep.train.rounds: "x" is not a whole number; give one such as 5'),
        # the override itself
        ("train.rounds", 'train.rounds: has no "="; write key=value'),
        ("a b=1", "a b: is no dotted key; write it like train.rounds"),
        ("train.rounds.x=1", 'train.rounds.x: there is no table that could hold "x"; check the dots in the key'),
        ("seeds=[1", 'seeds: "[1" is no TOML value; write a number, text, true, false or a list'),
    ],
)
def test_each_fault_is_exactly_one_line(file, override, expected):
    assert lines(file, override) == [expected]


def test_all_faults_are_reported_at_once_and_in_order(file):
    found = lines(file, "train.rounds=-1", "seeds=[1", "model.name=mpl", "modle.x=1", only=["fedavgg"])
    assert found == [
        'seeds: "[1" is no TOML value; write a number, text, true, false or a list',
        'strategies: "fedavgg" is not listed, so it cannot be picked; did you mean "fedavg"?',
        'model.name: "mpl" does not exist; did you mean "mlp"?',
        "train.rounds: -1 is out of range; give a number of at least 0",
        'modle: unknown key; did you mean "model"?',
    ]


def test_swept_keys_need_no_value_of_their_own(file):
    scenario = load_scenario(file, ["privacy={mechanism='dp-sgd', delta=1e-4}", "sweep={'privacy.epsilon'=[3, inf]}"])
    assert scenario.sweep == {"privacy.epsilon": (3, math.inf)}
    assert scenario.privacy.epsilon == 3


def test_sweep_may_be_written_as_nested_tables(file):
    dotted = load_scenario(file, ["sweep={'train.rounds'=[1, 2]}"])
    assert load_scenario(file, ["sweep.train.rounds=[1, 2]"]) == dotted


def test_python_objects_make_the_same_scenario(file):
    scenario = load_scenario(file, ["sweep={'train.rounds'=[1, 2]}"])
    assert Scenario(**{name: getattr(scenario, name) for name in Scenario.model_fields}) == scenario
    train = Train(rounds=30, batch_size=16, learning_rate=0.05)
    assert load_scenario(file).train == train
    assert Scenario(**{**dict(scenario), "train": train}).train.rounds == 1


def test_a_key_that_is_set_is_no_longer_swept(file):
    scenario = load_scenario(file, ["sweep.train.rounds=[1, 2]", "train.rounds=3"])
    assert scenario.train.rounds == 3
    assert "train.rounds" not in scenario.sweep


def test_missing_file(tmp_path):
    assert lines(tmp_path / "no.toml") == ["does not exist; check the path"]


def test_folder_for_a_file(tmp_path):
    assert lines(tmp_path) == ["cannot be read (Is a directory); check the path"]


def test_syntax_error_names_the_line(file):
    file.write_text("name = 'x'\nseeds = [1\n[data]\n", encoding="utf-8")
    [line] = lines(file)
    assert line.startswith("line 3, column ")
    assert line.endswith("; write it as TOML")


def test_not_utf8(file):
    file.write_bytes(b"name = '\xff'")
    assert lines(file) == ["is not UTF-8 text; save it as UTF-8"]


def test_mapping_is_labelled_scenario_and_left_alone():
    mapping = tomllib.loads(BASE) | {"sweep": {"train.rounds": [1, 2]}}
    before = pickle.dumps(mapping)
    parse_scenario(mapping, Path())
    assert pickle.dumps(mapping) == before
    del mapping["train"]["batch-size"]
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(mapping, Path())
    assert caught.value.problems == ("scenario: train.batch-size: is missing; add this key",)


def test_error_survives_pickling_and_keeps_each_line_once():
    error = ScenarioError(["a", "b", "a", "two\nlines"])
    assert pickle.loads(pickle.dumps(error)).problems == error.problems == ("a", "b", "two lines")  # noqa: S301
    assert str(error) == "a\nb\ntwo lines"


def test_csv_digest_follows_the_content(tmp_path):
    path = tmp_path / "p.csv"
    path.write_bytes(b"")
    spec = Csv(path=path, label="y", clinic="c", features=("x",))
    assert spec.sha256() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    path.write_bytes(b"abc")
    assert spec.sha256() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_import_is_light_and_quick():
    code = "import sys, sim.scenario; print([m for m in ('torch', 'flwr', 'pandas', 'pint') if m in sys.modules])"
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - start < 2  # the import itself takes 0.1 s; the rest is room for a busy machine
