"""Types of the numbers in a plan, with their limits."""

from typing import Annotated, Final

from pydantic import AfterValidator, Field

from autoseg.untrusted.names import FolderName

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
AxisCounts = Annotated[tuple[Count, ...], Field(min_length=2, max_length=3)]

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
