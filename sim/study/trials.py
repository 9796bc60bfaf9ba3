"""One trial of a study's tuning: trained without held-out records, scored on validation records, and forgotten."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from sim.data.at_clinics import load_records, records_key
from sim.data.federation import Federation
from sim.flower.actors import Hosts
from sim.foundation.problems import FolderError, told
from sim.plan.plan import Plan
from sim.study.lockstep import Shared
from sim.study.train import train_run
from sim.tensor.program import Program

Row = dict[str, Any]


def try_together(plans: Sequence[Plan], hosts: Hosts | None = None) -> Iterator[Row]:
    """Execute trials in lockstep, their tensor work as one program, and yield how each ended."""
    shared = Shared()
    known: dict[tuple[str, str, int], Federation] = {}

    def one(plan: Plan) -> Row:
        of_data = records_key(plan.spec.data, plan.spec.clinics, plan.spec.seed)
        if of_data not in known:
            known[of_data] = load_records(
                plan.spec.data, plan.spec.clinics, plan.spec.seed, plan.spec.parties
            ).for_tuning()
        return try_one(plan, known[of_data], shared, hosts)

    yield from shared.run([partial(one, plan) for plan in plans])


def try_one(plan: Plan, federation: Federation, program: Program, hosts: Hosts | None = None) -> Row:
    """Train a trial and score it; an error is a row too, with status ``failed``.

    Parameters
    ----------
    plan : Plan
    federation : Federation
        As :meth:`sim.data.federation.Federation.for_tuning` returns it: there are no held-out records in it.
    program : Program
        Does the tensor work.
    hosts : Hosts, optional
        Where its clinics are, if not in this process.

    Returns
    -------
    dict
        ``trial_id score loss status error wall_seconds``. The score is the headline of the last round's model on
        validation records (of classes the within-clinic AUC), NaN where no clinic has a pair of records.
    """
    started = program.clock()
    row: Row = {"trial_id": plan.spec.run_id, "score": math.nan, "loss": math.nan, "status": "ok", "error": ""}
    try:
        pooled = train_run(plan, federation, program=program, trial=True, hosts=hosts).evaluations[-1].pooled
        row |= {"score": pooled[plan.job.outcome.headline.within], "loss": pooled["loss"]}
    except FolderError:
        raise
    except Exception as error:
        row |= {"status": "failed", "error": told(error)}
    return row | {"wall_seconds": program.clock() - started}
