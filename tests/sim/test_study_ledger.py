"""A study's epsilon against closed forms, dp-accounting's own accountants and enumeration."""

import json
import math
from itertools import product
from pathlib import Path

import dp_accounting as dp
import pandas as pd
import pytest
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from scipy.optimize import brentq
from scipy.stats import norm
from support import STUDY, plain, write_scenario

from sim.privacy import study_ledger
from sim.privacy.accounting import composed_epsilon, dp_sgd_event, epsilon
from sim.privacy.ledger import ADVERSARIES, COLUMN_OF, Ledger, Release
from sim.privacy.study_ledger import StudyRun, compose_study, own_epsilon

DELTA = 1e-4


def run_of(events, names="ab", way="add-or-remove", unit="record", **more) -> StudyRun:
    """A run that releases one event of each clinic to the server, under the names of the clinics given."""
    ledger = Ledger(
        Release(clinic=k, what="gradients", adversaries=("server",), event=event, adjacency=way, unit=unit)
        for k, event in enumerate(events)
    )
    row = {"mechanism": "dp-sgd", "unit": unit, "delta": DELTA, "status": "ok"}
    row["adjacency"] = "zero-out" if way == "add-or-remove" else "replace-one"
    place = {key: more.pop(key, "") for key in ("population", "placement")}
    return StudyRun(row={**row, **more}, releases=ledger.to_json(), clinics=tuple(names[: len(events)]), **place)


def server(runs, delta=None):
    return next(c for c in compose_study(runs, delta).compositions if c.adversary == "server")


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Balle & Wang 2018, written out."""

    def excess(eps: float) -> float:
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * norm.cdf(-mu / 2 - eps / mu) - delta

    return float(brentq(excess, 0, 200))


def test_gaussian_runs_add_in_squares() -> None:
    one, two = run_of([dp.GaussianDpEvent(4.0), dp.GaussianDpEvent(8.0)]), run_of([dp.GaussianDpEvent(3.0)])
    found = server([one, two])
    assert found.finite == found.epsilon == pytest.approx(gaussian_epsilon(math.hypot(1 / 4, 1 / 3), DELTA), rel=1e-6)
    # Clinic b alone has less, and would have more with the runs' clinics mixed up.
    assert server([one, run_of([dp.GaussianDpEvent(3.0)], names="b")]).finite == pytest.approx(
        max(gaussian_epsilon(1 / 4, DELTA), gaussian_epsilon(math.hypot(1 / 8, 1 / 3), DELTA)), rel=1e-6
    )


def test_colluding_clinics_are_composed_where_every_run_states_how_many() -> None:
    """The server with colluding clinics sees what the server sees, and each clinic's noise less."""
    runs = []
    for sigma, fewer in ((4.0, 3.0), (3.0, 2.0)):
        seen = {("server",): sigma, ("server-and-peers",): fewer, ("peers",): 8.0}
        ledger = Ledger(
            Release(clinic=0, what="sum", adversaries=who, event=dp.GaussianDpEvent(noise))
            for who, noise in seen.items()
        )
        row = dict.fromkeys((COLUMN_OF[a] for a in (*ADVERSARIES, "peers", "server-and-peers")), 1.0)
        one = run_of([dp.GaussianDpEvent(sigma)], **row)
        runs.append(StudyRun(row=one.row, releases=ledger.to_json(), clinics=("a",), population="", placement=""))
    found = {each.adversary: each.finite for each in compose_study(runs).compositions}
    expected = {"server": (4, 3), "server-and-peers": (3, 2), "peers": (8, 8)}
    for adversary, (first, second) in expected.items():
        assert found[adversary] == pytest.approx(gaussian_epsilon(math.hypot(1 / first, 1 / second), DELTA), rel=1e-6)
    assert "edge" not in found
    alone = run_of([dp.GaussianDpEvent(4.0)], names="a")
    assert [each.adversary for each in compose_study([*runs, alone]).compositions] == list(ADVERSARIES)


def test_an_edge_server_composes_what_it_sees_with_the_models_of_runs_without_any() -> None:
    """Known batches of one run and rows of another add in squares to what the model user of a third sees."""
    through = [
        StudyRun(
            row={**run_of([dp.GaussianDpEvent(1.0)]).row, COLUMN_OF["edge"]: 1.0},
            releases=Ledger(
                Release(clinic=0, what="gradients", adversaries=who, event=dp.GaussianDpEvent(noise))
                for who, noise in ((("edge",), sigma), (("model-user", "server"), 9.0))
            ).to_json(),
            clinics=("a",),
            population="",
            placement="",
        )
        for sigma in (4.0, 3.0)
    ]
    ledger = Ledger(
        Release(clinic=0, what="gradients", adversaries=(who,), event=dp.GaussianDpEvent(noise))
        for who, noise in (("model-user", 2.0), ("server", 8.0), ("peer-clinic", 7.0))
    )
    row = run_of([dp.GaussianDpEvent(1.0)]).row
    direct = StudyRun(row=row, releases=ledger.to_json(), clinics=("a",), population="", placement="")
    found = compose_study([*through, direct])
    edge = next(each for each in found.compositions if each.adversary == "edge")
    assert edge.runs == edge.finite_runs == 3
    mu = math.sqrt(1 / 4**2 + 1 / 3**2 + 1 / 2**2)
    assert edge.epsilon == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-6)
    assert math.isnan(own_epsilon(direct, "edge", found))
    assert own_epsilon(through[0], "edge", found) == pytest.approx(gaussian_epsilon(1 / 4, DELTA), rel=1e-6)


@pytest.mark.slow
def test_ten_dp_sgd_runs_against_dp_accounting() -> None:
    noise = [0.9 + 0.1 * i for i in range(10)]
    found = server([run_of([dp_sgd_event(0.05, sigma, 60)]) for sigma in noise])
    accountant = dp.pld.PLDAccountant()
    for sigma in noise:
        step = dp.PoissonSampledDpEvent(0.05, dp.GaussianDpEvent(sigma))
        accountant.compose(dp.SelfComposedDpEvent(step, 60))
    assert found.finite == pytest.approx(accountant.get_epsilon(DELTA), rel=3e-3)
    assert found.finite > 1.7 * epsilon(dp_sgd_event(0.05, 0.9, 60), DELTA)


def test_two_adjacencies_compose_under_replacement() -> None:
    """Noise for zeroing a record out counts over twice its sensitivity: 1 / 3 and 1 / 2, of 1 / 6 and 1 / 2."""
    runs = [run_of([dp.GaussianDpEvent(6.0)]), run_of([dp.GaussianDpEvent(2.0)], way="replace")]
    assert compose_study(runs).adjacency == "replace-one"
    assert server(runs).finite == pytest.approx(gaussian_epsilon(math.hypot(1 / 3, 1 / 2), DELTA), rel=1e-6)


@pytest.mark.parametrize(("units", "sigma"), [(("clinic", "clinic"), 8.0), (("clinic", "record"), None)])
def test_units_are_one(units, sigma) -> None:
    runs = [run_of([dp.GaussianDpEvent(8.0)], unit=unit) for unit in units]
    mu = math.sqrt(2) / sigma if sigma else math.hypot(2 / 8, 1 / 8)
    assert compose_study(runs).unit == ("clinic" if sigma else "record")
    assert server(runs).finite == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-6)


def test_one_run_without_noise_voids_the_rest() -> None:
    bare = run_of([dp.NonPrivateDpEvent(), dp.NonPrivateDpEvent()], mechanism="none", adjacency="", delta=None)
    half = run_of([dp.GaussianDpEvent(4.0), dp.NonPrivateDpEvent()])
    private = [run_of([dp.GaussianDpEvent(4.0)] * 2)] * 2
    alone = server(private)
    for infinite in (bare, half):
        found = server([*private, infinite])
        assert (found.epsilon, found.finite, found.runs, found.finite_runs) == (math.inf, alone.finite, 3, 2)
    assert server([bare]).finite == 0.0
    for unseen in ("model-user", "peer-clinic"):
        assert next(c for c in compose_study([bare]).compositions if c.adversary == unseen).epsilon == 0.0


def test_dealt_records_may_be_anywhere() -> None:
    """No less than any choice of one clinic a run; the names of two seeds' clinics mean nothing."""
    clinics = [
        [dp_sgd_event(0.1, 1.5, 40), dp_sgd_event(0.3, 3.0, 20)],
        [dp_sgd_event(0.2, 2.0, 30), dp_sgd_event(0.05, 1.0, 50)],
    ]
    runs = [run_of(events, placement=str(seed)) for seed, events in enumerate(clinics)]
    worst = max(
        composed_epsilon({("add-or-remove", e.event): e.count for e in chosen}, DELTA) for chosen in product(*clinics)
    )
    assert server(runs).finite >= worst * (1 - 1e-3)
    assert not compose_study(runs).by_clinic
    # The same seed dealt both: a record stays at the clinic of its name.
    together = [run_of(events, placement="seed") for events in clinics]
    by_name = max(
        composed_epsilon({("add-or-remove", e.event): e.count for e in chosen}, DELTA)
        for chosen in zip(*clinics, strict=True)
    )
    assert server(together).finite == pytest.approx(by_name, rel=1e-9)


def test_made_up_records_of_other_seeds_are_others() -> None:
    runs = [run_of([dp.GaussianDpEvent(4.0)], population=f"seed {seed}") for seed in (0, 0, 1)]
    found = compose_study(runs)
    assert found.populations == 2
    assert server(runs).finite == pytest.approx(gaussian_epsilon(math.sqrt(2) / 4, DELTA), rel=1e-6)


def test_many_mechanisms_are_rounded_to_weaker_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runs = [run_of([dp_sgd_event(0.05 + 0.001 * i, 1.0 + 0.02 * i, 20 + i)]) for i in range(12)]
    exact = server(runs).finite
    monkeypatch.setattr(study_ledger, "MOST_MECHANISMS", 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is remembered there
    found = compose_study(runs)
    assert 0 < found.rounding < 0.2
    rounded = next(c.finite for c in found.compositions if c.adversary == "server")
    assert exact < rounded < 1.2 * exact


def test_drawn_number_of_runs_against_dp_accounting() -> None:
    event = dp_sgd_event(0.05, 1.2, 60)
    found = server([run_of([event])] * 10)
    direct = dp.rdp.RdpAccountant().compose(RepeatAndSelectDpEvent(event, 10.0, math.inf)).get_epsilon(DELTA)
    assert found.drawn == pytest.approx(direct, rel=0.02)
    assert found.drawn >= direct * (1 - 1e-9)  # of the same orders but fewer
    assert found.drawn < found.finite
    for other in ([dp_sgd_event(0.05, 1.3, 60)], [dp.LaplaceDpEvent(2.0)]):
        assert server([run_of([event])] * 3 + [run_of(other)]).drawn is None
    assert server([run_of([event])]).drawn is None
    assert server([run_of([dp.LaplaceDpEvent(2.0)])] * 2).drawn is None


# --- of a study's folder ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two private methods and none without noise, trained; the folder of the study."""
    from sim import run

    folder = tmp_path_factory.mktemp("composed")
    text = STUDY.replace('"adam"', '"sgd"').replace("rounds = 10", "rounds = 1").replace("[3, inf]", "[3.0, inf]")
    run(write_scenario(folder, text), out=folder / "out")
    return folder / "out" / "small"


def test_the_command_composes_the_folder(suture, study) -> None:
    code, out, err = suture("epsilon", study)
    assert (code, err) == (0, "")
    rows = {
        line.split("│")[1].strip(): [c.strip() for c in line.split("│")[2:-1]]
        for line in out.splitlines()
        if "│" in line
    }
    table = pd.read_parquet(study / "runs.parquet")
    private = table[table["mechanism"] != "none"]
    records = [json.loads((study / run_id / "run.json").read_text(encoding="utf-8")) for run_id in private["run_id"]]
    for position, adversary in enumerate(ADVERSARIES, 1):
        assert rows["All runs, composed"][position] == "∞"
        ledgers = [Ledger.from_json(record["privacy"]["releases"]) for record in records]
        seen = [ledger for ledger in ledgers if math.isfinite(ledger.worst(adversary, 1e-3, range(4)))]
        totals = []
        for clinic in range(4):
            atoms: dict = {}
            for ledger in seen:
                for key, count in ledger.mechanisms(adversary, clinic).items():
                    atoms[key] = atoms.get(key, 0) + count
            totals.append(composed_epsilon(atoms, 1e-3))
        shown = rows["Runs with a finite ε, composed"][position]
        assert float(shown) == pytest.approx(max(totals), rel=5e-3)
        for name in ("FedAvg, epsilon 3", "Local, epsilon 3"):
            own = private[private["strategy"] == name.split(",")[0].lower()][COLUMN_OF[adversary]].max()
            assert float(rows[name][position]) == pytest.approx(own, rel=5e-3)
    told = plain(out)
    assert "voids the finite ε of all others" in told
    assert "The number of runs was fixed, not random" in told


def test_failed_and_lost_runs_are_told_of(suture, study, tmp_path) -> None:
    import shutil

    folder = tmp_path / "small"
    shutil.copytree(study, folder)
    first, second, *_ = sorted(path.parent for path in folder.glob("[!.]*/run.json"))
    record = json.loads((first / "run.json").read_text(encoding="utf-8"))
    record["row"] |= {"status": "failed", "error": "lost"}
    (first / "run.json").write_text(json.dumps(record), encoding="utf-8")
    shutil.rmtree(second)
    told = plain(suture("epsilon", folder)[1])
    assert "1 of 15 runs did not finish; they count with all that they were planned to release" in told
    assert f"1 run was begun and left no ledger, and not counted: {second.name}." in told
    (first / "run.json").write_text(json.dumps({**record, "privacy": {"releases": "[{}]"}}), encoding="utf-8")
    code, _, err = suture("epsilon", folder)
    assert code == 2
    assert err.count("\n") == 1
    assert "run.json: privacy." in err


@pytest.mark.parametrize("arguments", [("--accountant", "rdp"), ("--delta", "2")])
def test_what_a_study_does_not_take_is_one_line(suture, study, arguments) -> None:
    code, _, err = suture("epsilon", study, *arguments)
    assert code == 2
    assert err.count("\n") == 1


def test_a_run_has_both_adjacencies_and_a_delta_of_zero(suture, study) -> None:
    table = pd.read_parquet(study / "runs.parquet")
    own = table[(table["mechanism"] != "none") & (table["strategy"] == "fedavg")].iloc[0]
    assert own["adjacency"] == "zero-out"
    code, out, _ = suture("epsilon", study / own["run_id"])
    line = next(line for line in out.splitlines() if "replace-one, by pld" in line)
    assert float(line.split("│")[2]) == pytest.approx(own["epsilon_model_user_replace"], rel=5e-3)
    assert "This run is for zero-out." in plain(out)
    code, out, _ = suture("epsilon", study / own["run_id"], "--delta", "0")
    assert code == 0
    assert "epsilon at delta 0," in out
    assert "∞" in next(line for line in out.splitlines() if "worst" in line)
