"""pfl-research's federated averaging in its simulated backend, one process."""

import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from torch import nn

from benchmarks.peers.job import BATCH, RATE, from_command_line
from benchmarks.peers.torch_model import build_model, clinics_of

torch.set_num_threads(1)
job = from_command_line()
clinics, held_out = clinics_of(job), torch.from_numpy(job.x)


class Model(nn.Sequential):
    """The job's model as pfl wants it."""

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return a batch's loss."""
        return nn.functional.cross_entropy(self(x), y)

    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict:
        """Return nothing: held-out records are evaluated centrally."""
        return {}


class Evaluation(TrainingProcessCallback):
    """Evaluates the shared model."""

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        """Evaluate after a round."""
        with torch.no_grad():
            job.end_round(model.pytorch_model(held_out).numpy())
        return False, Metrics()


def shuffled(clinic: int) -> Dataset:
    x, y = clinics[clinic]
    order = torch.randperm(len(y))
    return Dataset([x[order], y[order]], user_id=str(clinic))


network = Model(*build_model(job))
federated = FederatedDataset(shuffled, get_user_sampler("minimize_reuse", list(range(len(clinics)))))
FederatedAveraging().run(
    NNAlgorithmParams(
        central_num_iterations=job.rounds,
        evaluation_frequency=job.rounds + 1,
        train_cohort_size=len(clinics),
        val_cohort_size=0,
    ),
    SimulatedBackend(federated, federated, [WeightByDatapoints()]),
    PyTorchModel(network, torch.optim.SGD, torch.optim.SGD(network.parameters(), 1.0)),
    NNTrainHyperParams(local_num_epochs=1, local_learning_rate=RATE, local_batch_size=BATCH),
    NNEvalHyperParams(local_batch_size=None),
    [Evaluation()],
)
job.tell(["pfl", "torch"])
