"""The planner of the nnU-Net paper: a plain U-Net for 8 GB."""

from typing import Final

from planners.planner import Planner
from planners.profile import Profile

DEFAULT: Final = Planner(
    name="default",
    description="Plain U-Net for 8 GB of accelerator memory: patch as large as a batch of two allows.",
    # Sums and blocks: version 2 of nnU-Net, calibrated on 8 GB. 5 %: nnU-Net paper, against overfitting.
    profile=Profile(
        architecture="plain_unet",
        reference_memory_gb=8,
        reference_elements_3d=560_000_000,
        reference_elements_2d=85_000_000,
        patch_must_fit="smallest_batch",
        dataset_fraction_limit=0.05,
        encoder_blocks=(2,),
        decoder_convolutions=2,
    ),
)
