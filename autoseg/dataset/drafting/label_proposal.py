"""Proposes names and values for the entry `labels` of dataset.json from the values in the label files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from autoseg.dataset.drafting.mask_joining import Nesting, list_region_values
from autoseg.dataset.drafting.naming_conventions import PROBABLE_IGNORE_VALUES
from autoseg.dataset.label_entries import BACKGROUND

MOST_VALUES: Final = 200  # guess: FreeSurfer's parcellation of the whole brain has about 190, a grey picture up to 256

Values = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelProposal:
    """Proposed entries of dataset.json.

    Attributes:
        labels: Values of each name, background first; a name with several values is a region.
        region_order: The entry `regions_class_order`; empty without regions.
        notes: Suggestions for changes by the user.
    """

    labels: Mapping[str, Values]
    region_order: Values
    notes: tuple[str, ...]


def propose_labels(voxels: Mapping[int, int], *, structure: str) -> LabelProposal:
    """Proposes one label for each value in the files.

    Args:
        voxels: Number of voxels in all cases, by value.
        structure: Name found in the file names; used if there is only one foreground value.
    """
    foreground = sorted(value for value in voxels if value != 0)
    names = {value: f"label_{value}" for value in foreground}
    if len(foreground) == 1 and structure:
        names[foreground[0]] = structure
    notes = [] if 0 in voxels else ["warning: no label map holds the value 0, which is background"]
    notes += [_mention_ignore(value) for value in PROBABLE_IGNORE_VALUES if value in foreground and len(foreground) > 1]
    labels = {BACKGROUND: (0,), **{name: (value,) for value, name in names.items()}}
    return LabelProposal(labels=labels, region_order=(), notes=tuple(notes))


def propose_structures(names: Sequence[str], nesting: Nesting) -> LabelProposal:
    """Proposes labels for joined masks: value i + 1 for structure i, and regions if structures are nested."""
    if not nesting.has_nested:
        plain = {name: (index + 1,) for index, name in enumerate(names)}
        return LabelProposal(labels={BACKGROUND: (0,), **plain}, region_order=(), notes=())
    regions = list_region_values(nesting)
    labels = {names[index]: values for index, values in regions.items()}
    notes = [
        f"{names[inner]} lies in {' and in '.join(names[outer] for outer in outers)} in every case: "
        f"labels become regions"
        for inner, outers in enumerate(nesting.parents)
        if outers
    ]
    return LabelProposal(
        labels={BACKGROUND: (0,), **labels},
        region_order=tuple(index + 1 for index in regions),
        notes=tuple(notes),
    )


def _mention_ignore(value: int) -> str:
    return (
        f"the value {value} often marks voxels that nobody labelled: if so here, name it 'ignore' instead of "
        f"'label_{value}' in dataset.json"
    )
