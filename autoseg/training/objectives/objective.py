"""The contract of an objective, which computes the loss of a network for a batch."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from jaxtyping import Float, Float32
from torch import Tensor, nn

from autoseg.networks.network import TargetKind
from autoseg.runtime.precision import DtypeName
from autoseg.training.data.batch import Batch

NetworkCall = Callable[..., tuple[Tensor, ...]]
"""The network as it is executed in this training (its dtype, order in memory, compiled, gradients summed over
processes): from images to logits, most important output first. Calling it is all that an objective does with it. What
else the `forward` of its family takes in training follows the images."""


class Objective(nn.Module, ABC):
    """The function that training minimizes; the same for training, validation, and whatever measures a step.

    One that is more than a loss of logits and labels may

    - call the network several times, on images that it has changed: noise added or taken away (diffusion), a cropped or
      refined part, which it puts together to logits of the whole patch (point-wise refinement);
    - own modules. What of their parameters wants a gradient is optimized beside the network and written to checkpoints,
      for example an auxiliary head. Where a batch is divided among processes, such a parameter must act on values of
      single samples, before `BatchPart.add_up` sums over all: after that its gradient would count once a process. A
      frozen teacher (distillation) is no state of the training: it is loaded when the objective is built, and left out
      of `state_dict`, or every checkpoint would repeat it;
    - keep a state from step to step in buffers, which checkpoints hold, too. In evaluation mode (`self.training` is
      false) no buffer may change: an interrupted validation is repeated. Random numbers come from a generator of its
      own that is seeded by the training's seed and a count of the steps that is such a buffer, so that a resumed
      training stays bit-equal to an uninterrupted one; or, in training mode, from torch's global one, which is seeded
      for every iteration, as for dropout.

    It has no say in prediction, which calls the network: final checkpoints hold the network, and beside it a label
    autoencoder for the quality of predictions, where there is one. An extension of a finished training begins with a
    new objective, as with a new optimizer.

    Attributes:
        progress: Share of the training that is done, 0 to 1. It is set before every iteration by the schedule, which
            checkpoints hold, and stays 0 while the end of the training is open.
        dtype: Number format in which the network computes, and so do frozen networks that the objective asks.
        loss: The planned loss terms, and the weight and the target of every output; of objectives that
            `compute_terms`.
    """

    progress: float = 0.0
    dtype: DtypeName = "float32"
    loss: Callable[..., Tensor]
    output_weights: tuple[float, ...]
    output_targets: tuple[TargetKind, ...]

    def compute_terms(self, outputs: Sequence[Tensor], batch: Batch) -> Tensor:
        """Computes the weighted sum of the loss terms over all outputs of the network."""
        return self.loss(
            outputs, batch.label_map, self.output_weights, output_targets=self.output_targets, progress=self.progress
        )

    def find_capture_problem(self) -> str | None:
        """Finds a reason why a training step cannot be captured in a CUDA graph; None if it can.

        It can where the loss is computed in the same way in every step, from tensors on the device alone: not where it
        depends on `progress`, on numbers drawn on the CPU, or on values that the CPU reads.
        """
        return f"the objective {type(self).__name__} may compute every step in another way"

    def load_label_autoencoder(self, weights: Mapping[str, Tensor]) -> None:
        """Takes the weights of the label autoencoder that was trained before; most objectives have none."""
        del weights

    def compare_with_teacher(self, found: tuple[Tensor, ...], taught: tuple[Tensor, ...], batch: Batch) -> Tensor:
        """Computes how much the outputs of a call of the network differ from those of a teacher, over the whole batch.

        Only objectives of `TAUGHT_OBJECTIVES` have one.

        Args:
            found: Outputs of the network.
            taught: Outputs of the teacher, called in the same way; of several resolutions the first alone.
            batch: Batch on the device.
        """
        raise NotImplementedError

    def summarize_epoch(self) -> dict[str, float]:
        """Returns figures of the epoch that ends, by their fields in its record, and begins to count anew.

        Every process calls it, once an epoch has been trained and validated; most objectives have none.
        """
        return {}

    @abstractmethod
    def forward(
        self, network: NetworkCall, batch: Batch
    ) -> tuple[Float32[Tensor, ""], Float[Tensor, "batch output *space"]]:
        """Computes the loss of the whole batch (see `BatchPart`), and logits of the patches, or of their middle where
        the network has margins, which validation scores; logits of no sample where nothing is segmented.

        Args:
            network: Called on images of the batch's extent, or of another that its plan allows.
            batch: Batch on the device.
        """
