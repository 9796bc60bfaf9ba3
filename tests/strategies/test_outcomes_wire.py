"""What leaves the clinics where amounts or times are predicted: what the ledger lists, and nothing else."""

import pytest
from support import AMOUNTS, DP_SGD, NO_PRIVACY, TIMES, plan_of, run_spec, write_amounts, write_times
from wire import again, differences, record, unlisted, with_record

METHODS = [
    ("fedavg", None),
    ("split", "vanilla"),
    ("split", "u-shaped"),
    ("splitfed-v1", "vanilla"),
    ("splitfed-v2", "vanilla"),
    ("splitfed-v3", "u-shaped"),
    ("local", None),
    ("prevalence", None),
]
CHANGED = 1


@pytest.mark.parametrize("privacy", [NO_PRIVACY, DP_SGD], ids=["plain", "dp-sgd"])
@pytest.mark.parametrize(("strategy", "cut"), METHODS, ids=str)
def test_each_byte_is_listed_or_public_or_constant(tmp_path, one_key, strategy, cut, privacy):
    if strategy == "prevalence" and privacy is DP_SGD:
        pytest.skip("it has no mechanism")
    model = {"name": "logistic"} if strategy == "prevalence" else None
    how = {"records": AMOUNTS, "rounds": 1, "model": model}
    file = write_amounts(tmp_path / "amounts.csv", sizes=(20, 12, 9))
    spec = run_spec(file, strategy, cut, privacy, **how)
    run = record(*plan_of(spec), 2)
    assert not unlisted(run)
    other = with_record(file, spec, CHANGED, [3.0, -2.5, 4.0, -1.5])
    changed = again(run, run_spec(other, strategy, cut, privacy, **how), 2)
    assert not unlisted(changed)
    assert not differences(run, changed, CHANGED)


@pytest.mark.parametrize(("strategy", "cut"), METHODS[1:4], ids=str)
def test_a_label_crosses_where_the_loss_is_and_nowhere_else(tmp_path, strategy, cut):
    run = record(*plan_of(run_spec(write_times(tmp_path / "t.csv"), strategy, cut, records=TIMES, rounds=1)))
    assert not unlisted(run)
    kinds = {kind for reply in run.replies for kind, _ in reply.arrays}
    assert ("labels" in kinds) is (cut == "vanilla")
