"""Each fault of a scenario is exactly one line: where it is, what is wrong and how to mend it."""

import pytest
from scenario_texts import BASE, CSV, lines


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "heart.toml"
    path.write_text(BASE, encoding="utf-8")
    return path


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
            'strategies.0.name: unknown strategy "a..b"; choose "centralised", "fedavg", "fedavg-finetuned", '
            '"fedavg-own-head", "fedprox", "hierarchical-splitfed", "local", "prevalence", "release-once", "split", '
            '"splitfed-v1", "splitfed-v2" or another of the 16',
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
        ("train.participation=1.1", "train.participation: 1.1 is out of range; give a number of at most 1"),
        ("train.momentum=1", "train.momentum: 1 is out of range; give a number less than 1"),
        ("data.test-share=1", "data.test-share: 1 is out of range; give a number less than 1"),
        ("data.test-share=0", "data.test-share: 0 is out of range; give a number greater than 0"),
        ("seeds=[-1]", "seeds.0: -1 is out of range; give a number of at least 0"),
        ("seeds=[1,1]", "seeds: [1, 1] has a value twice; name each once"),
        ("model.hidden=[0]", "model.hidden.0: 0 is out of range; give a number greater than 0"),
        (
            "model.cut=[1,2,3,4]",
            "model.cut: [1, 2, 3, 4] is no cut; give a block number such as 1, or two such as [1, -1]",
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
        (
            "server.compute=1e300 FLOP/s",
            'server.compute: "1e300 FLOP/s" is not between 1 FLOP/s and 1e6 PFLOP/s; give a compute rate such as '
            '"2 TFLOP/s"',
        ),
        ("server.workers=2000000", "server.workers: 2000000 is out of range; give a number of at most 1e+06"),
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
            "clinics: more than one group has no sites; name the sites, or give the count, of all groups but one",
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
            "strategies.0.cut: fedavg does not cut the model; remove cut, or take split",
        ),
        (
            "strategies.0.options={a=1}",
            "strategies.0.options: fedavg takes none; remove them",
        ),
        (
            "strategies.2.options={a=[1]}",
            "strategies.2.options.a: [1] is not a single value; give a number, text, true or false",
        ),
        (
            "strategies.0.name=splitfed-v1",
            'strategies: "splitfed-v1" is listed twice; list it once, or give each a label of its own',
        ),
        (
            'strategies.0.label="a\\u0007b"',
            r'strategies.0.label: "a\u0007b" has a control or formatting character; take it out',
        ),
        (
            'strategies.0.label="a\u202eb"',
            r'strategies.0.label: "a\u202eb" has a control or formatting character; take it out',
        ),
        # csv
        (CSV.replace('"bmi"]', '"y"]'), 'data.features: "y" is the label column; take it out of the features'),
        (CSV.replace('"bmi"]', '"c"]'), 'data.features: "c" is the clinic column; take it out of the features'),
        (CSV.replace('label="y", ', ""), "data.label: is missing; name the column to predict"),
        (
            CSV.replace('"drop"', '"mean"'),
            'data.missing.age: "mean" is no constant; '
            'give a number to fill in, "unknown" for a level of its own, or "drop" to drop the column',
        ),
        (
            CSV.replace("[10, 60]", "[60, 10]"),
            "data.ranges.bmi: [60, 10] is not a range; give [lowest, highest] as two numbers",
        ),
        (
            CSV.replace("[10, 60]", "[0, inf]"),
            "data.ranges.bmi: [0, inf] is not a range; give [lowest, highest] as two numbers",
        ),
        (
            CSV.replace("bmi=[10, 60]", "b.mi=[10, 60]"),
            'data.ranges.b: {"mi": [10, 60]} is not a range; give [lowest, highest] as two numbers; '
            "put a column's name that has a dot into quotes",
        ),
        # sweep
        ("sweep={'train.rouns'=[1]}", 'sweep.train.rouns: unknown key; did you mean "train.rounds"?'),
        (
            "sweep={'clinics.0.uplink'=['1 bit/s']}",
            "sweep.clinics.0.uplink: cannot be swept; of [[clinics]] sweep clinics.0.label-noise, "
            "clinics.0.feature-shift, clinics.0.hostile, clinics.0.hostile-strength, or of a group with another number",
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
