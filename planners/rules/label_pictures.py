"""The pictures that stand for label maps, where an autoencoder was made for pictures."""

from itertools import product
from typing import Final

from autoseg.errors import PlanError
from autoseg.labels import LabelScheme
from autoseg.plan.decisions import Decision
from autoseg.plan.network.label_autoencoder import PICTURE_CHANNELS, LabelPicturesPlan
from planners.reasons import format_amount

MOST_LEVELS: Final = 3
"""Levels of red, green and blue (guess), which give 27 colours."""

Colour = tuple[float, float, float]


def choose_pictures(labels: LabelScheme) -> Decision[LabelPicturesPlan]:
    """Chooses colours for the outputs of a network: black and white as published for one class.

    Raises:
        PlanError: There are more outputs than colours that can be told apart.
    """
    if labels.has_regions:
        return _choose_region_pictures(labels.output_channel_count)
    colours = choose_colours(labels.output_channel_count)
    because = (
        "a picture of three channels stands for the label map, as in SDSeg, which has one class in black and white; "
        "more labels get colours as far apart as possible, and the nearest one tells the label"
    )
    return Decision(LabelPicturesPlan(colours=colours, kind="labels"), because)


def choose_colours(count: int) -> tuple[Colour, ...]:
    """Chooses so many colours from -1 to 1, one after the other as far as possible from those before, from black on.

    Raises:
        PlanError: There are more labels than colours.
    """
    levels = next((levels for levels in range(2, MOST_LEVELS + 1) if levels**PICTURE_CHANNELS >= count), None)
    if levels is None:
        msg = (
            f"label maps of {count} labels cannot be told from pictures by the weights of Stable Diffusion, which tell "
            f"at most {MOST_LEVELS**PICTURE_CHANNELS} colours apart; plan without --pretrained, or with fewer labels"
        )
        raise PlanError(msg)
    steps = [2 * step / (levels - 1) - 1 for step in range(levels)]
    grid: list[Colour] = [(red, green, blue) for red, green, blue in product(steps, repeat=PICTURE_CHANNELS)]
    chosen = [grid[0]]
    while len(chosen) < count:
        chosen.append(max(grid, key=lambda colour: min(_measure_distance(colour, other) for other in chosen)))
    return tuple(chosen)


def _choose_region_pictures(count: int) -> Decision[LabelPicturesPlan]:
    if count > PICTURE_CHANNELS:
        msg = (
            f"{format_amount(count, 'region')} cannot be told from pictures by the weights of Stable Diffusion: "
            f"regions may overlap, so each needs one of the {PICTURE_CHANNELS} channels; plan without --pretrained, or "
            f"without regions"
        )
        raise PlanError(msg)
    owners = [min(channel, count - 1) for channel in range(PICTURE_CHANNELS)]
    red, green, blue = ([1.0 if owner == region else -1.0 for region in range(count)] for owner in owners)
    colours = tuple(zip(red, green, blue, strict=True))
    because = "regions may overlap, so each has channels of its own in the picture that stands for the label map"
    return Decision(LabelPicturesPlan(colours=colours, kind="regions"), because)


def _measure_distance(first: Colour, second: Colour) -> float:
    return sum((one - other) ** 2 for one, other in zip(first, second, strict=True))
