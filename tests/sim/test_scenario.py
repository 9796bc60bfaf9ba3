import math
import pickle
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError
from scenario_texts import BASE, CSV, lines

from sim.foundation.problems import ScenarioError
from sim.scenario import Scenario, load_scenario, parse_scenario
from sim.scenario.data import Csv
from sim.scenario.privacy import Privacy
from sim.scenario.study import Train


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "heart.toml"
    path.write_text(BASE, encoding="utf-8")
    return path


def test_defaults_are_the_documented_ones(file):
    scenario = load_scenario(file)
    assert scenario.seeds == (0, 1)
    assert (scenario.data.test_share, scenario.data.scaling, scenario.data.one_class) == (0.34, "public", "keep")
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
    assert lines(tmp_path) == ["is a folder; give a scenario file, NAME.toml"]


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


def test_import_is_light():
    code = "import sys, sim.scenario; print([m for m in ('torch', 'flwr', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
