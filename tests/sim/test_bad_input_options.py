"""Options that cannot be, clusters that are not there, and what is said though it is no error."""

import socket

import pytest
from support import SCENARIO, write_scenario
from test_bad_input import at_most

STUDY = SCENARIO + '[[strategies]]\nname = "fedavg"\n'


@pytest.mark.parametrize(
    "options",
    [
        ("--jobs", "0"),
        ("--jobs", "-1"),
        ("--jobs", "1000000000"),
        ("--jobs", "1e9"),
        ("--jobs", "9" * 401),
        ("--engine", "spark"),
        ("--ray-address", "127.0.0.1:1"),
        ("--node-groups", "2"),
        ("--engine", "ray", "--node-groups", "0"),
        ("--engine", "ray", "--node-groups", "2", "--jobs", "2"),
        ("--jbos", "2"),
        ("--only", "fedavgg"),
        ("--only", ""),
        ("--set", ""),
        ("--set", "="),
        ("--set", "train.rounds"),
        ("--set", "train.rounds="),
        ("--set", "\udcff=1"),
        ("--set", "name=\udcff"),
    ],
)
def test_options_that_cannot_be(suture, tmp_path, options):
    study = write_scenario(tmp_path, STUDY)
    with at_most(20):
        code, printed, err = suture("run", study, "--out", tmp_path / "out", *options)
    assert (code, printed) == (2, "")
    assert err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["/dev/null", "/dev/null/out", "/proc/out", "file", "file/out", "loop", "n" * 300])
def test_results_folders_that_cannot_be_written(suture, tmp_path, place):
    study = write_scenario(tmp_path, STUDY)
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for arguments in (("run", study, "--jobs", 1, "--out"), ("check", study, "--plot", "--out")):
        with at_most(20):
            code, _, err = suture(*arguments, place)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert place in err
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
    assert list(tmp_path.rglob("run.json")) == []


@pytest.fixture
def silent():
    """Return a port that takes a connection and then says nothing, as no cluster would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379", "127.0.0.1:99999", "x"]
)
def test_a_ray_cluster_that_is_not_there(suture, tmp_path, monkeypatch, address):
    study = write_scenario(tmp_path, STUDY)
    for place in ("--ray-address", "RAY_ADDRESS"):
        given = ["--ray-address", address] if place == "--ray-address" else []
        monkeypatch.setenv("RAY_ADDRESS", "" if given else address)
        with at_most(20):
            code, printed, err = suture("run", study, "--out", tmp_path / "out", "--engine", "ray", *given)
        assert (code, printed) == (2, "")
        assert len(err.splitlines()) == 1
        assert err.startswith(f"{place}: ")
        assert address in err
    assert not (tmp_path / "out").exists()


def test_a_port_that_takes_the_connection_and_is_no_cluster(suture, tmp_path, monkeypatch, silent):
    monkeypatch.setattr("sim.study.engines._JOIN_SECONDS", 2)
    study = write_scenario(tmp_path, STUDY)
    with at_most(30):
        code, _, err = suture("run", study, "--out", tmp_path / "out", "--engine", "ray", "--ray-address", silent)
    assert code == 2
    assert err == f'--ray-address: no Ray cluster answers at "{silent}"; check the address, and that it runs\n'
    assert not (tmp_path / "out").exists()


PRIVACY = {
    "pure": 'mechanism = "label-rr"\nepsilon = 2',
    "gaussian": 'mechanism = "smashed-noise"\nnoise-multiplier = 5.0\ndelta = 1e-3\nlabels = "public"',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs: one with randomised labels alone, one with Gaussian noise alone."""
    from sim import run

    here, found = tmp_path_factory.mktemp("epsilon"), {}
    split = SCENARIO.replace("cut = [1, -1]", 'cut = 1\nfreeze = ["head"]').replace("seeds = [0, 1]", "seeds = [0]")
    for name, privacy in PRIVACY.items():
        text = f'{split.replace("small", name)}[privacy]\n{privacy}\n[[strategies]]\nname = "split"\n'
        rows = run(write_scenario(here, text), here).runs
        found[name] = here / name / rows["run_id"][0]
    return found


def epsilons(suture, *arguments):
    """Return what is said of the least protected clinic against the server, and of a label."""
    code, said, err = suture("epsilon", *arguments)
    assert (code, err) == (0, "")
    [worst] = [line for line in said.splitlines() if "worst" in line and "(" in line]
    return worst, said


def test_a_delta_of_zero_is_a_question_of_its_own(suture, folder):
    """Gaussian noise has no pure epsilon; randomised labels have theirs, and a risk that no delta changes."""
    _, at_own = epsilons(suture, folder["gaussian"])
    worst, at_zero = epsilons(suture, folder["gaussian"], "--delta", 0)
    assert "delta 0.001" in at_own
    assert "delta 0," in at_zero
    assert "∞" in worst
    assert [line for line in at_own.splitlines() if "true positives" in line] == [
        line for line in at_zero.splitlines() if "true positives" in line
    ]
    _, pure = epsilons(suture, folder["pure"], "--delta", 0)
    assert "one label, randomised before it leaves: 2" in pure


@pytest.mark.parametrize(
    "options",
    [
        ("--delta", "2"),
        ("--delta", "1"),
        ("--delta", "nan"),
        ("--delta", "-1"),
        ("--delta", "inf"),
        ("--delta", "1e-300"),
        ("--accountant", "abacus"),
        ("--accountant", ""),
    ],
)
def test_an_epsilon_that_cannot_be_asked_for(suture, folder, options):
    for run_folder in folder.values():
        code, said, err = suture("epsilon", run_folder, *options)
        assert (code, said, len(err.splitlines())) == (2, "", 1)
        assert err.startswith(f"{run_folder}: {options[0]}")


def notes_of(suture, study, *overrides):
    """Return the notes, which all three commands give, and which change no exit code."""
    found = []
    for command in ("check", "plan"):
        code, _, err = suture(command, study, *(word for each in overrides for word in ("--set", each)))
        assert code == 0, err
        found.append([line.removeprefix(f"{study}: note: ") for line in err.splitlines()])
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("privacy", "keys"),
    [
        ("{}", []),
        ("{clip=1.0}", ["clip"]),
        ("{delta=1e-4}", ["delta"]),
        (
            "{clip=2.0, delta=1e-4, tail-clip=1, smashed-clip=1, labels='public'}",
            ["clip", "delta", "smashed-clip", "tail-clip", "labels"],
        ),
        ("{mechanism='dp-sgd', noise-multiplier=1, delta=1e-3, clip=1}", []),
        ("{mechanism='dp-sgd', noise-multiplier=1, delta=1e-3, tail-clip=1}", ["tail-clip"]),
        ("{mechanism='dp-sgd', noise-multiplier=1, delta=1e-3, adaptive-rate=0.1}", ["adaptive-rate"]),
        ("{mechanism='dp-sgd', epsilon=inf, delta=1e-3, clip=1}", []),
        ("{mechanism='clinic-level', noise-multiplier=1, delta=1e-3, clip=1, smashed-clip=2}", ["smashed-clip"]),
    ],
)
def test_keys_without_a_mechanism_are_said_to_have_no_effect(suture, tmp_path, privacy, keys):
    found = notes_of(suture, write_scenario(tmp_path, STUDY), "seeds=[0]", f"privacy={privacy}")
    assert [note.partition(":")[0] for note in found] == [f"privacy.{key}" for key in keys]
    assert all("has no effect" in note for note in found)


def test_a_mechanism_that_is_swept_or_set_by_a_strategy_uses_its_keys(suture, tmp_path):
    study = write_scenario(tmp_path, STUDY)
    used = "privacy={clip=1, delta=1e-3}"
    own = "strategies=[{name='fedavg', set={privacy={mechanism=['dp-sgd'], noise-multiplier=1}}}]"
    assert notes_of(suture, study, "seeds=[0]", used, own) == []
    swept = "sweep={'privacy.mechanism'=['dp-sgd', 'clinic-level']}"
    assert notes_of(suture, study, "seeds=[0]", "privacy={noise-multiplier=1, clip=1, delta=1e-3}", swept) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("yes", "no"), None),
        (("1", "2"), None),
        (("yes", "Yes"), "1 of the 2 classes"),
        (("1", "1.0", "unknown"), "1 of the 3 classes"),
        (("of age", "ofage", "x"), "1 of the 3 classes"),
        (("yes", "YES", "no", "No"), "2 of the 4 classes"),
        (("ﬁt", "fit"), "1 of the 2 classes"),
    ],
)
def test_classes_that_differ_in_writing_alone(suture, tmp_path, words, said):
    study = write_scenario(tmp_path, STUDY)
    header, *rows = (tmp_path / "clinics.csv").read_text(encoding="utf-8").splitlines()
    cells = [row.split(",") for row in rows]
    changed = [",".join([own[0], words[i % len(words)], *own[2:]]) for i, own in enumerate(cells)]
    (tmp_path / "clinics.csv").write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")
    found = notes_of(suture, study, "seeds=[0]")
    assert len(found) == (said is not None)
    assert all(note.startswith(f"data.label: {said} differ from another only by case, blanks") for note in found)
    assert not any(f'"{word}"' in note for word in words for note in found)


def test_an_identifier_as_label(suture, tmp_path):
    study = write_scenario(tmp_path, STUDY)
    header, *rows = (tmp_path / "clinics.csv").read_text(encoding="utf-8").splitlines()
    cells = [row.split(",") for row in rows]
    for every, warned in ((1, True), (2, True), (3, False)):
        changed = [",".join([own[0], f"p{i // every}", *own[2:]]) for i, own in enumerate(cells)]
        (tmp_path / "clinics.csv").write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")
        found = notes_of(suture, study, "seeds=[0]")
        assert [f"classes for {len(rows)} records" in note for note in found] == [True] * warned
