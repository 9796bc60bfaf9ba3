"""``sim.run`` from Python, without a report; told after each round's evaluation."""

import sys
import tempfile
from pathlib import Path

from benchmarks.peers.job import from_command_line
from sim import run
from sim.study import train
from sim.tensor.evaluation import Evaluation, Evaluator

job = from_command_line()


class Watched(Evaluator):
    """Notes each evaluation."""

    def evaluate(self, parameters: object, *, last: bool = False, server_round: int = 0) -> Evaluation:
        """Evaluate a model, and note the time."""
        found = super().evaluate(parameters, last=last, server_round=server_round)
        job.note(found.pooled["auc"], found.pooled["accuracy"])
        return found


train.Evaluator = Watched
with tempfile.TemporaryDirectory() as out:
    run(Path(sys.argv[4]), out)
job.tell(["torch"])
