"""Types of the numbers in a plan, with their limits."""

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from autoseg.untrusted.names import FolderName

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# Limits that no plan comes near, so that a number which slipped is named before anything is built.
MOST_STAGES: Final = 32
MOST_BLOCKS: Final = 256  # of one stage
MOST_CHANNELS: Final = 2**14
LARGEST_KERNEL: Final = 63
LARGEST_EXTENT: Final = 2**15  # of a patch, along one axis
LARGEST_RADIUS_VOXELS: Final = 128.0  # of what a transform does to a patch
MOST_CONTEXT_SLICES: Final = 16  # on either side of a slice
LARGEST_BATCH: Final = 2**15
LONGEST_TRAINING: Final = 10**8  # epochs, or iterations of one

Count = Annotated[int, Field(ge=1, le=LONGEST_TRAINING)]
ChannelCount = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
ChannelCounts = Annotated[tuple[ChannelCount, ...], Field(min_length=1, max_length=MOST_STAGES)]
BlockCount = Annotated[int, Field(ge=1, le=MOST_BLOCKS)]
BlockCounts = Annotated[tuple[BlockCount, ...], Field(max_length=MOST_STAGES)]
Extents = Annotated[tuple[Annotated[int, Field(ge=1, le=LARGEST_EXTENT)], ...], Field(min_length=2, max_length=3)]
KernelExtents = Annotated[tuple[Annotated[int, Field(ge=1, le=LARGEST_KERNEL)], ...], Field(min_length=2, max_length=3)]

RECIPE_ENDING: Final = ".json"  # of the file beside a configuration's folder of preprocessed data


def _check_configuration_name(name: str) -> str:
    if ":" in name or name.lower().endswith(RECIPE_ENDING):
        msg = f"must hold no colon and not end with {RECIPE_ENDING} (got {name!r})"
        raise ValueError(msg)
    return name


ConfigurationName = Annotated[
    FolderName,
    Field(max_length=100),  # two of them together name the folder of an ensemble
    AfterValidator(_check_configuration_name),
]


def _check_order(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        msg = f"must be a lower and an upper limit in this order (got {limits[0]}, {limits[1]})"
        raise ValueError(msg)
    return limits


PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_check_order)]
NonNegativeRange = Annotated[tuple[NonNegative, NonNegative], AfterValidator(_check_order)]
FractionRange = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]], AfterValidator(_check_order)
]
