"""Parties who know some of the patients: whom they share, how they find out, and what it costs."""

import numpy as np
import pytest
from support import plan_of, write_csv
from vertical import PARTIES, spec_of

from sim.data.federation import load_federation
from sim.foundation.problems import ScenarioError
from sim.plan.statement import privacy_statement
from sim.study.train import train_run

SHARES = (0.8, 1.0, 0.7)
PARTLY = [{**party, "share": share} for party, share in zip(PARTIES, SHARES, strict=True)]
KNOWN = (160, 200, 140)
RATES = {"doctor": (1e6, 4e6, 0.03, 50e9), "laboratory": (1e9, 1e9, 0.0025, 1e12), "imaging": (1e9, 1e9, 0.0025, 1e12)}
"""Up, down, latency and operations a second of the profiles."""


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("overlap") / "patients.csv", sizes=[200], features=5)


def records_of(federation):
    return np.concatenate([federation.train.row, federation.test.row])


def test_they_train_on_the_patients_whom_all_know(csv):
    spec = spec_of(csv, parties=PARTLY)
    shared = load_federation(spec.data, spec.seed, spec.parties)
    assert shared.facts.known == KNOWN
    alone = []
    for party in (0, 2):
        one = [{**own, "share": SHARES[party] if k == party else 1.0} for k, own in enumerate(PARTIES)]
        seen = spec_of(csv, parties=one)
        alone.append(set(records_of(load_federation(seen.data, seen.seed, seen.parties)).tolist()))
    assert [len(each) for each in alone] == [160, 140]
    assert set(records_of(shared).tolist()) == alone[0] & alone[1]
    assert 100 < len(records_of(shared)) < 124  # .8 * .7 of 200, drawn independently
    other = spec.model_copy(update={"seed": 6})
    assert set(records_of(load_federation(other.data, other.seed, other.parties)).tolist()) != alone[0] & alone[1]


def test_bytes_and_seconds_of_the_intersection(csv):
    """Every list of 32-byte points passes every party, and each is told which of its own are shared."""
    plan, federation = plan_of(spec_of(csv, parties=PARTLY))
    trained = train_run(plan, federation)
    up = 32 * sum(KNOWN) + 3 * 512
    down = [32 * (sum(KNOWN) - own) + 2 * 512 + own // 8 + (own % 8 > 0) + 512 for own in KNOWN]
    assert plan.traffic["up", "alignment"].tolist() == [up] * 3
    assert plan.traffic["down", "alignment"].tolist() == down
    assert trained.meter.traffic["down", "alignment"].tolist() == down

    def stage(place, amounts):
        at = {"up": 0, "down": 1}
        times = []
        for amount, rates in zip(amounts, RATES.values(), strict=True):
            line = rates[2] + 8 * (amount + 512) / rates[at[place]] if place in at else 150_000 * amount / rates[3]
            times.append(line)
        return max(times)

    seconds = stage("clinic", KNOWN) + stage("up", [32 * own for own in KNOWN])
    for hop in (1, 2):
        handed = [KNOWN[k - hop] for k in range(3)]
        points = [32 * own for own in handed]
        seconds += stage("down", points) + stage("clinic", handed) + stage("up", points)
    seconds += stage("down", [-(-own // 8) for own in KNOWN])
    assert plan.round_seconds[0] - plan.round_seconds[1] == pytest.approx(seconds, rel=1e-9)


def test_nothing_is_sent_for_it_where_all_know_everybody(csv):
    plan, _ = plan_of(spec_of(csv))
    assert ("up", "alignment") not in plan.traffic
    assert plan.round_seconds[0] == plan.round_seconds[1]


def test_the_statement_says_whom_it_tells_what(csv):
    told = {}
    for parties in (PARTIES, PARTLY):
        plan, _ = plan_of(spec_of(csv, parties=parties))
        statement = privacy_statement(plan, {}, finished=False)
        [told[len(told)]] = [row["note"] for row in statement["outside"] if row["what"] == "who is a patient"]
    assert "all parties know the same patients" in told[0]
    for words in ("160 at doctor, 200 at laboratory, 140 at imaging", "every party learns who of its own they are"):
        assert words in told[1]


def test_no_patient_in_common_is_one_line(csv):
    nobody = [{**party, "share": 0.01} for party in PARTIES]
    spec = spec_of(csv, parties=nobody)
    with pytest.raises(ScenarioError, match="no patient in common") as error:
        load_federation(spec.data, spec.seed, spec.parties)
    assert len(error.value.problems) == 1
