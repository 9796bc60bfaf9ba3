"""The keys of the table [data]."""

import json
import tomllib

import pytest

from sim.foundation.problems import ScenarioError
from sim.scenario import Scenario, parse_scenario
from sim.scenario.data import Csv, HeartDisease, Npz, Parquet, Synthetic
from sim.scenario.spec import RunSpec, expand

BASE = """
name = "study"
seeds = [0]
[model]
name = "mlp"
[evaluation]
reference = false
[train]
rounds = 1
batch-size = 8
learning-rate = 0.1
[[strategies]]
name = "local"
"""
CSV = 'source = "csv"\npath = "p.csv"\nlabel = "y"\nclinic = "site"\n'
NPZ = 'source = "npz"\npath = "p.npz"\nx = "x"\nlabel = "y"\nclinic = "site"\n'
MEDMNIST = 'source = "npz"\npath = "p.npz"\nsplit = "iid"\nclinics = 3\n'
SYNTHETIC = 'source = "synthetic"\nclinics = 10\nrecords = 100\n'
HEART = 'source = "heart-disease"\n'

NO_CONSTANT = 'give a number to fill in, "unknown" for a level of its own, or "drop" to drop the column'


def scenario(text, folder, **tables):
    return parse_scenario(tomllib.loads(BASE) | {"data": tomllib.loads(text)} | tables, folder)


def lines(text, folder, **tables):
    with pytest.raises(ScenarioError) as caught:
        scenario(text, folder, **tables)
    return [line.removeprefix("scenario: ") for line in caught.value.problems]


def test_defaults_are_the_documented_ones(tmp_path):
    heart = HeartDisease()
    assert (heart.test_share, heart.validation_share, heart.one_class, heart.split) == (0.34, 0.0, "keep", "natural")
    assert heart.stratified is False
    assert (heart.clinics, heart.alpha, heart.classes_per_clinic, heart.shift, heart.sites) == (None,) * 5
    csv = scenario(CSV, tmp_path).data
    assert (csv.positive, csv.patient, csv.max_records_per_patient, csv.features) == (None,) * 4
    assert (csv.exclude, csv.categorical, csv.levels, csv.missing, csv.ranges) == ((), (), {}, {}, {})
    assert csv.scaling == "public"
    npz = scenario(MEDMNIST, tmp_path).data
    assert (npz.x, npz.label, npz.clinic, npz.patient, npz.range) == (None,) * 5
    made = scenario(SYNTHETIC, tmp_path).data
    assert (made.features, made.classes, made.prevalence) == (20, 2, None)
    assert (made.size_spread, made.feature_shift, made.intercept_shift, made.signal) == (1.0, 0.5, 0.5, 1.5)


@pytest.mark.parametrize(
    ("text", "kind"),
    [(CSV, Csv), (CSV.replace("csv", "parquet"), Parquet), (NPZ, Npz), (MEDMNIST, Npz), (SYNTHETIC, Synthetic)],
)
def test_every_source_survives_json(tmp_path, text, kind):
    parsed = scenario(text, tmp_path)
    assert type(parsed.data) is kind
    assert Scenario.model_validate_json(parsed.model_dump_json()) == parsed
    [run] = expand(parsed)
    assert RunSpec.model_validate_json(run.model_dump_json()) == run
    assert getattr(parsed.data, "path", tmp_path).is_relative_to(tmp_path)


def test_full_table_survives_json(tmp_path):
    text = CSV + (
        'patient = "who"\nmax-records-per-patient = 1\npositive = ["<30", 1]\nexclude = ["id"]\n'
        'categorical = ["race"]\nlevels = {race = ["a", 2]}\nmissing = {age = 3, bmi = "drop"}\n'
        'split = "dirichlet"\nclinics = 5\nalpha = 0.5\nvalidation-share = 0.1\nstratified = true\n'
    )
    parsed = scenario(text, tmp_path)
    assert (parsed.data.positive, parsed.data.levels) == (("<30", "1"), {"race": ("a", "2")})
    assert Scenario.model_validate_json(parsed.model_dump_json()) == parsed


@pytest.mark.parametrize(
    ("written", "value"), [("0", 0.0), ("-1.5", -1.5), ('"drop"', "drop"), ("{a = 1}", {"a": 1.0})]
)
def test_missing_is_one_constant_or_one_for_each_column(tmp_path, written, value):
    parsed = scenario(CSV + f"missing = {written}\n", tmp_path)
    assert parsed.data.missing == value
    assert Scenario.model_validate_json(parsed.model_dump_json()) == parsed


def test_schema_knows_every_source_and_form():
    text = json.dumps(Scenario.model_json_schema())
    for word in (
        "csv",
        "parquet",
        "npz",
        "synthetic",
        "heart-disease",
        "max-records-per-patient",
        "classes-per-clinic",
    ):
        assert f'"{word}"' in text


def test_the_split_and_its_numbers_can_be_swept(tmp_path):
    text = HEART + 'split = "dirichlet"\nclinics = 5\none-class = "keep"\n'
    runs = expand(scenario(text, tmp_path, sweep={"data.alpha": [0.1, 10], "data.clinics": [5, 9]}))
    assert [(run.data.alpha, run.data.clinics) for run in runs] == [(0.1, 5), (0.1, 9), (10, 5), (10, 9)]
    assert len({run.run_id for run in runs}) == 4


def test_run_id_follows_the_bytes_of_every_kind_of_file(tmp_path):
    for text, name in ((CSV, "p.csv"), (CSV.replace("csv", "parquet"), "p.parquet"), (NPZ, "p.npz")):
        ids = []
        for place, content in (("a", b"1"), ("b", b"1"), ("a", b"2")):
            (tmp_path / place).mkdir(exist_ok=True)
            (tmp_path / place / name).write_bytes(content)
            [run] = expand(scenario(text, tmp_path / place))
            ids.append(run.run_id)
        assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # splits
        (HEART + 'split = "dirichlet"\nclinics = 5\n', 'data.alpha: is missing; split = "dirichlet" needs it'),
        (HEART + 'split = "iid"\n', 'data.clinics: is missing; split = "iid" needs it'),
        (
            HEART + 'split = "pathological"\nclinics = 5\n',
            'data.classes-per-clinic: is missing; split = "pathological" needs it',
        ),
        (HEART + 'split = "feature-shift"\nclinics = 5\n', 'data.shift: is missing; split = "feature-shift" needs it'),
        (
            HEART + "alpha = 1\n",
            'data.alpha: has no effect with split = "natural"; '
            'remove it, or set data.split to "quantity" or "dirichlet"',
        ),
        (
            HEART + 'split = "iid"\nclinics = 3\nshift = 1\n',
            'data.shift: has no effect with split = "iid"; remove it, or set data.split to "feature-shift"',
        ),
        (
            HEART + "clinics = 4\n",
            'data.clinics: has no effect with split = "natural"; remove it, or set data.split to '
            '"iid" or "quantity" or "dirichlet" or "pathological" or "feature-shift"',
        ),
        (
            HEART + 'split = "dirichlet"\nclinics = 5\nalpha = 0\n',
            "data.alpha: 0 is out of range; give a number greater than 0",
        ),
        (
            HEART + 'split = "quantity"\nclinics = 5\nalpha = -1\n',
            "data.alpha: -1 is out of range; give a number greater than 0",
        ),
        (
            HEART + 'split = "iid"\nclinics = 0\n',
            "data.clinics: 0 is out of range; give a number of at least 1",
        ),
        (HEART + 'split = "dirichlt"\n', 'data.split: "dirichlt" does not exist; did you mean "dirichlet"?'),
        (HEART + "validation-share = 1\n", "data.validation-share: 1 is out of range; give a number less than 1"),
        # tables
        (
            CSV.replace('clinic = "site"\n', ""),
            'data.clinic: is missing; name what holds the clinics, or deal the records out with split = "iid"',
        ),
        (
            CSV.replace('clinic = "site"\n', 'split = "iid"\nclinics = 3\nsites = ["a"]\n'),
            "data.clinic: is missing; name what holds the clinics, or remove data.sites",
        ),
        (
            CSV + "max-records-per-patient = 1\n",
            "data.max-records-per-patient: has no effect without patients; name their column in data.patient",
        ),
        (
            CSV + 'patient = "who"\nmax-records-per-patient = 0\n',
            "data.max-records-per-patient: 0 is out of range; give a number of at least 1",
        ),
        (
            CSV + 'patient = "who"\nfeatures = ["x", "who"]\n',
            'data.features: "who" is the patient column; take it out of the features',
        ),
        (
            CSV + 'features = ["x"]\nexclude = ["z"]\n',
            "data.exclude: has no effect beside data.features; remove one of the two",
        ),
        (
            CSV + 'categorical = ["race"]\nlevels = {rase = ["a"]}\n',
            'data.levels: "rase" is not one of data.categorical; add it there, or remove its levels',
        ),
        (
            CSV + 'categorical = ["race"]\nlevels = {race = [1.5]}\n',
            "data.levels.race: 1.5 is no value of a column; give text or a whole number",
        ),
        (
            CSV + 'categorical = ["race"]\nlevels = {race = []}\n',
            "data.levels.race: is empty; give at least one value",
        ),
        (CSV + "positive = true\n", "data.positive: true is no value of a column; give text or a whole number"),
        (
            CSV + 'missing = "mean"\n',
            'data.missing: "mean" is no constant; ' + NO_CONSTANT,
        ),
        (
            CSV + 'missing = {age = "mean"}\n',
            'data.missing.age: "mean" is no constant; ' + NO_CONSTANT,
        ),
        # archives
        (
            NPZ.replace('x = "x"\n', ""),
            "data.label: data.x and data.label belong together; name both, or neither for MedMNIST's arrays",
        ),
        (
            MEDMNIST + 'patient = "who"\n',
            "data.label: is missing; beside data.patient name the arrays of records (data.x) and of labels",
        ),
        (
            MEDMNIST.replace('split = "iid"\nclinics = 3\n', ""),
            'data.clinic: is missing; name what holds the clinics, or deal the records out with split = "iid"',
        ),
        (NPZ + "range = [1, 0]\n", "data.range: [1, 0] is not a range; give [lowest, highest] as two numbers"),
        (NPZ + "rnge = [0, 1]\n", 'data.rnge: unknown key; did you mean "range"?'),
        # made-up patients
        (
            SYNTHETIC.replace("100", "19"),
            "data.records: 19 are too few for 10 clinics; give at least two a clinic",
        ),
        (SYNTHETIC + "classes = 1\n", "data.classes: 1 is out of range; give a number of at least 2"),
        (SYNTHETIC + "prevalence = 0\n", "data.prevalence: 0 is out of range; give a number greater than 0"),
        (SYNTHETIC + "size-spread = -1\n", "data.size-spread: -1 is out of range; give a number of at least 0"),
        (SYNTHETIC + "size-sprad = 1\n", 'data.size-sprad: unknown key; did you mean "size-spread"?'),
        (SYNTHETIC.replace("clinics = 10\n", ""), "data.clinics: is missing; add this key"),
    ],
)
def test_each_fault_is_exactly_one_line(tmp_path, text, expected):
    assert lines(text, tmp_path) == [expected]


def test_a_swept_fault_points_to_the_sweep(tmp_path):
    text = HEART + 'split = "dirichlet"\nclinics = 5\n'
    assert lines(text, tmp_path, sweep={"data.alpha": [1, 0]}) == [
        "sweep.data.alpha: 0 is out of range; give a number greater than 0"
    ]
