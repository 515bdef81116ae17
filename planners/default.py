"""The planner of the nnU-Net paper: a plain U-Net for 8 GB."""

from typing import Final

from planners.planner import Planner
from planners.profile import Profile
from planners.rules.memory import PLAIN_CALIBRATION
from planners.rules.unet import PLAIN_UNET

DEFAULT: Final = Planner(
    name="default",
    description="Plain U-Net for 8 GB of accelerator memory: patch as large as a batch of two allows.",
    profile=Profile(
        choose_network=PLAIN_UNET,
        memory_gb=8,
        calibration=PLAIN_CALIBRATION,
        patch_must_fit="smallest_batch",
        dataset_fraction_limit=0.05,  # nnU-Net paper, against overfitting
    ),
)
