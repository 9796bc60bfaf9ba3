"""A party without the label tells it from the gradients that come back for its rows."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from support import plan_of, write_csv
from torch.nn import functional
from vertical import PARTIES, Twin, batches, spec_of

from sim.attacks.attack import attack_of
from sim.attacks.observation import Observation
from sim.study.train import train_run

COLUMNS = [[0, 1], [2], [3, 4]]


@pytest.fixture(scope="module")
def csv(tmp_path_factory):
    return write_csv(tmp_path_factory.mktemp("labels") / "patients.csv", sizes=[160], features=5)


def findings(spec, **options):
    plan, federation = plan_of(spec)
    seen = Observation([attack_of("party-labels")], plan, federation, [options])
    trained = train_run(plan, federation, overheard=seen.message)
    found = seen.found(trained.parameters)
    return [each for _, own in found.by_attack for each in own]


def named(found, measure, clinic=""):
    [value] = [each.value for each in found if (each.measure, each.clinic) == (measure, clinic)]
    return value


@pytest.mark.parametrize("cut", ["vanilla", "u-shaped"])
def test_every_party_reads_labels_off_its_gradients(csv, cut):
    """A logit's gradient has one sign for cases: without noise, direction tells labels apart, wherever the loss is."""
    found = findings(spec_of(csv, cut=cut, train={"rounds": 4}))
    for name in ("doctor", "imaging"):
        assert named(found, "label_auc", name) > 0.95
    assert not [each for each in found if each.clinic == "laboratory"], "it holds the labels"
    assert named(found, "label_auc") == max(named(found, "label_auc", name) for name in ("doctor", "imaging"))


def test_the_gradients_are_those_of_the_block_diagonal_model(csv):
    """The spectral score of the doctor, from gradients that plain PyTorch forms: one round, so each record once."""
    spec = spec_of(csv, train={"rounds": 1, "batch-size": 200}, parties=PARTIES)
    plan, federation = plan_of(spec)
    twin = Twin(COLUMNS, plan.job.network.initial_parameters(spec.seed))
    x, y = torch.tensor(federation.train.x), torch.tensor(federation.train.y)
    [rows] = batches(spec, len(y))
    weight, bias, w2, b2, w3, b3 = twin.parameters
    smashed = functional.linear(x[rows], weight * twin.mask, bias).relu().detach().requires_grad_()
    logits = functional.linear(functional.linear(smashed, w2, b2).relu(), w3, b3).squeeze(-1)
    functional.binary_cross_entropy_with_logits(logits, y[rows].float(), reduction="sum").backward()
    own = smashed.grad[:, :3].double().numpy()
    centred = own - own.mean(0)
    along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    auc = roc_auc_score(y[rows], along)
    plan, federation = plan_of(spec)
    found = findings(spec)
    best = {each.measure: each.value for each in found if not each.clinic}
    by_party = {each.clinic: each.value for each in found if each.clinic}
    if by_party["doctor"] >= by_party["imaging"]:
        assert best["spectral_label_auc"] == pytest.approx(max(auc, 1 - auc), abs=0.02)
    else:
        assert best["spectral_label_auc"] > 0.5


def test_noised_rows_and_randomised_labels_leave_less(csv):
    plain = named(findings(spec_of(csv, train={"rounds": 4})), "label_auc")
    model = {"name": "mlp", "hidden": [3, 4], "cut": 1, "freeze": ["head"]}
    privacy = {"mechanism": "smashed-noise+label-rr", "epsilon": 1.0, "label-epsilon": 0.5, "clip": 0.5, "delta": 1e-3}
    noised = named(findings(spec_of(csv, train={"rounds": 4}, privacy=privacy, model=model)), "label_auc")
    assert noised < 0.75 < 0.95 < plain


def test_a_horizontal_run_has_no_parties(ragged):
    from support import run_spec

    plan, _ = plan_of(run_spec(ragged, "split", "vanilla"))
    assert not attack_of("party-labels").suits(plan.job)
    vertical = attack_of("rmia")
    assert vertical.layouts == ("horizontal",)
