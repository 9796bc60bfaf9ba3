"""A party of vertical learning tells labels from the gradients that come back for its rows.

    g_i   <- mean of the gradients in the party's row of patient i, over all batches that the patient was in
    direction, norm, spectrum, clusters   of the g_i, as the server does with a tail's gradients (``label-norm``)

Li et al., "Label Leakage and Protection in Two-party Split Learning", ICLR 2022: the gradient of the loss in what a
party sent points one way for cases and the other way for the rest. The party knows which row is which patient's, as it
takes part in every batch, those of ``dp-sgd`` too. Direction and norm assume that the labels of a few patients are
known, one of each class unless ``known`` says more.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sim.attacks.attack import Attack, Finding, Observer, Scalars
from sim.attacks.label_norm import told
from sim.attacks.labels import Floats, Labelled, few_of_each
from sim.data.federation import Federation
from sim.foundation.rng import stream
from sim.methods.messages import Begin, Instruction, Reply, Step
from sim.models import Parameters
from sim.plan.plan import Plan
from sim.tensor.rows import widened


class CutGradients(Observer):
    """Adds up, by party, each training record's gradients as they come back."""

    def __init__(self, plan: Plan, federation: Federation, options: Scalars) -> None:
        self._job, self._federation, self._known = plan.job, federation, int(options["known"])
        self._round = 0
        self._sums: dict[int, Floats] = {}
        self._times: dict[int, Floats] = {}

    def message(self, instruction: Instruction, reply: Reply) -> None:
        """Add a batch's gradients to their records'."""
        if isinstance(instruction, Begin):
            self._round = instruction.server_round
        if not isinstance(instruction, Step):
            return
        [party], job = instruction.clinics, self._job
        places = job.batches(self._round, [party]).index[instruction.step, 0]
        records = places[places >= 0] + int(self._federation.train.offsets[job.facts.places.region_of[party]])
        rows = widened(instruction.cut_gradient, job.cut.torch_dtype)[0, : len(records)].flatten(1).double().numpy()
        if party not in self._sums:
            everyone = len(self._federation.train.y)
            self._sums[party], self._times[party] = np.zeros((everyone, rows.shape[1])), np.zeros(everyone)
        normaliser = job.sampling.normaliser(np.array([job.sizes[party]]), np.array(instruction.rows))
        self._sums[party][records] += rows * float(normaliser[0])
        self._times[party][records] += 1

    def findings(self, model: Parameters) -> Iterator[Finding]:
        """Return, of each party without the label, the AUC of each way to tell labels that are not known.

        What stands without a party's name is the party's that tells labels best. No epsilon bounds it where a label
        also follows from what other patients have taught the model.
        """
        parties = self._job.parties
        others = [party for party in sorted(self._sums) if parties is not None and party not in parties.holders]
        found = {party: list(self._of_party(party)) for party in others}
        best = max(found.values(), key=lambda own: own[0].value if own else 0.0, default=[])
        yield from best
        for party, own in found.items():
            name = self._job.facts.names[party]
            yield from (Finding(**{**vars(each), "clinic": name}) for each in own[:1])

    def _of_party(self, party: int) -> Iterator[Finding]:
        seen = self._times[party] > 0
        gradients = self._sums[party][seen] / self._times[party][seen, None]
        everyone = Labelled.of(self._federation.train, len(self._federation.classes)).some(seen)
        if not seen.any():
            return
        seed = self._job.seed
        known = few_of_each(everyone, self._known * everyone.classes, stream(seed, "attack.known-labels"))
        if min(len(set(everyone.y[some].tolist())) for some in (known, ~known)) > 1:
            # else all are of one class, or so few that none is left to tell
            yield from told(gradients, everyone, known, seed)


ATTACK = Attack(
    name="party-labels",
    sentence="labels by direction, norm, spectrum and clusters of the gradients that a party gets (Li et al. 2022)",
    adversary="peer-clinic",
    uses="labels of training records and gradients of their losses, exact or as noised",
    begin=CutGradients,
    applies=lambda job: job.parties is not None and bool(job.parties.heads),
    layouts=("vertical",),
    options={"known": 1},
)
