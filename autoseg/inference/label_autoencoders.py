"""The label autoencoders that lie beside the networks in checkpoints."""

from collections.abc import Iterator, Sequence

from torch import nn

from autoseg.errors import PredictionError
from autoseg.networks.families import build_network
from autoseg.networks.weights import find_weight_problem, read_label_autoencoder
from autoseg.plan.document import ConfigurationPlan
from autoseg.plan.label_prior import find_autoencoder_beside
from autoseg.run_folder import FoldFolder


def load_label_autoencoders(trainings: Sequence[FoldFolder], configuration: ConfigurationPlan) -> Iterator[nn.Module]:
    """Loads the label autoencoders of trainings that are no part of their networks, in evaluation mode, on the CPU.

    Yields:
        One for each training whose checkpoint holds one; those of earlier versions hold none.

    Raises:
        PredictionError: It is none of such a plan.
        RunError: The checkpoint is damaged.
    """
    beside = find_autoencoder_beside(configuration)
    if beside is None:
        return
    for training in trainings:
        weights = read_label_autoencoder(training.final_checkpoint)
        if not weights:
            continue
        autoencoder = build_network(beside.autoencoder)
        problem = find_weight_problem(weights, autoencoder.state_dict())
        try:
            autoencoder.load_state_dict(weights)
        except RuntimeError as error:
            problem = problem or " ".join(str(error).split())
        if problem is not None:
            msg = (
                f"the label autoencoder in {training.final_checkpoint} does not fit {training.plan}: {problem:.300}; "
                f"copy the fold again with its own plan, or train it again"
            )
            raise PredictionError(msg)
        yield autoencoder.eval()
