"""The residual encoder presets of nnU-Net Revisited (Isensee et al. 2024): M, L and XL for 8, 24 and 40 GB."""

from typing import Final

from planners.planner import Planner
from planners.profile import Profile
from planners.rules.memory import MemoryCalibration
from planners.rules.unet import RESIDUAL_ENCODER_UNET


def _build_profile(*, memory_gb: float, elements_3d: int, elements_2d: int) -> Profile:
    return Profile(
        choose_network=RESIDUAL_ENCODER_UNET,
        memory_gb=memory_gb,
        calibration=MemoryCalibration(memory_gb=memory_gb, elements_3d=elements_3d, elements_2d=elements_2d),
        patch_must_fit="reference_batch",
        dataset_fraction_limit=1.0,  # implementation of the presets: one batch may show the whole dataset
    )


RESIDUAL_M: Final = Planner(
    name="residual-m",
    description="Residual encoder U-Net for 8 GB of accelerator memory: slower and usually better than the default.",
    profile=_build_profile(memory_gb=8, elements_3d=680_000_000, elements_2d=135_000_000),
)
RESIDUAL_L: Final = Planner(
    name="residual-l",
    description="Residual encoder U-Net for 24 GB of accelerator memory: larger patches and batches.",
    profile=_build_profile(memory_gb=24, elements_3d=2_100_000_000, elements_2d=380_000_000),
)
RESIDUAL_XL: Final = Planner(
    name="residual-xl",
    description="Residual encoder U-Net for 40 GB of accelerator memory: the largest patches and batches.",
    profile=_build_profile(memory_gb=40, elements_3d=3_600_000_000, elements_2d=560_000_000),
)
