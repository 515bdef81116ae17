"""What distinguishes one planner from another; everything else is common to all of them."""

from dataclasses import dataclass
from typing import Literal

from autoseg.plan import UNetFamily

PatchMustFit = Literal["smallest_batch", "reference_batch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The dials of a planner.

    Attributes:
        reference_memory_gb: Accelerator memory for which the two reference sums below were calibrated.
        reference_elements_3d: Feature map elements per sample (see `planners.memory`) that a 3D network may have when
            it is trained with the reference batch size.
        reference_elements_2d: The same for 2D networks.
        patch_must_fit: The batch with which a patch has to fit into the memory: the smallest allowed one, so that
            the patch grows at the expense of the batch, or the reference batch.
        dataset_fraction_limit: A batch sees at most this share of all voxels of the dataset.
        encoder_blocks: Convolutions (plain) or residual blocks of the first encoder stages; the last number repeats.
        decoder_convolutions: Convolutions of every decoder stage.
    """

    architecture: UNetFamily
    reference_memory_gb: float
    reference_elements_3d: int
    reference_elements_2d: int
    patch_must_fit: PatchMustFit
    dataset_fraction_limit: float
    encoder_blocks: tuple[int, ...]
    decoder_convolutions: int
