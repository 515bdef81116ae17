"""Joins masks of single structures into one label map for each case, in a folder beside the masks."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Integer

from autoseg.dataset.drafting.draft import DraftCase
from autoseg.dataset.drafting.image_tree import JOINED_FOLDER
from autoseg.dataset.drafting.label_proposal import propose_structures
from autoseg.dataset.drafting.mask_joining import (
    LARGEST_STRAY_FRACTION,
    Nesting,
    Overlap,
    assign_values,
    combine_masks,
    find_nesting,
)
from autoseg.errors import VolumeError
from autoseg.file_endings import find_ending, label_map_ending
from autoseg.geometry import Grid
from autoseg.processes.case_pool import run_over_cases
from autoseg.processes.progress import Progress
from autoseg.run_folder import write_folder_atomically
from autoseg.volume_io import LabelVolume, check_same_grid, read_label_map, write_label_map
from autoseg.workflows.init.file_pairing import refuse
from autoseg.workflows.init.label_survey import (
    LabelsFound,
    LabelSurvey,
    check_some_left,
    compare_grids,
    count_values,
    count_workers,
    keep_surveyed,
)

BYTES_PER_VOXEL: Final = 32  # a mask as it is read, numbers, counts, and the places of the foreground
MOST_CASES: Final = 5


def survey_masks(
    root: Path, cases: Sequence[DraftCase], structures: Sequence[str], *, workers: int | None, progress: Progress
) -> LabelsFound:
    """Reads all masks and writes one label map for each case into `JOINED_FOLDER`, all or none of them.

    Raises:
        DatasetError: No mask can be used, or structures share too many voxels for one label map.
        RunError: The folder cannot be written.
    """
    with write_folder_atomically(root / JOINED_FOLDER) as folder:
        targets = {case.name: folder / _name_joined(case, structures) for case in cases}
        join = partial(join_case_masks, root=root, structures=structures, folder=folder)
        count = count_workers(root, cases, bytes_per_voxel=BYTES_PER_VOXEL, requested=workers)
        jobs = [(case.name, case) for case in cases]
        outcome = run_over_cases(join, jobs, workers=count, label="Joining", progress=progress)
        check_some_left(root, outcome)
        combinations = {survey.name: survey.combinations for survey in outcome.results}
        nesting = find_nesting(combinations, structure_count=len(structures))
        _check_joinable(root, structures, nesting, outcome.results)
        changes = [
            (targets[survey.name], _list_new_values(survey, nesting, len(structures))) for survey in outcome.results
        ]
        mixed = [(path.name, (path, values)) for path, values in changes if values]
        done = run_over_cases(renumber, mixed, workers=count, label="Renumbering", progress=progress)
        assert not done.failures, done.failures[0].problems
    proposal = propose_structures(structures, nesting)
    overlaps = tuple(_describe_overlap(overlap, structures) for overlap in nesting.overlaps)
    missing = tuple(_list_missing(keep_surveyed(cases, outcome.results), structures))
    return LabelsFound(
        cases=tuple(
            replace(case, masks={"": f"{JOINED_FOLDER}/{targets[case.name].name}"})
            for case in keep_surveyed(cases, outcome.results)
        ),
        proposal=replace(proposal, notes=(*proposal.notes, *overlaps, *missing)),
        surveys=outcome.results,
        failures=outcome.failures,
    )


def join_case_masks(case: DraftCase, *, root: Path, structures: Sequence[str], folder: Path) -> LabelSurvey:
    """Joins the masks of one case into a label map, in a worker process; its numbers are those of `CombinedMasks`.

    Raises:
        VolumeError: A mask cannot be read, is no mask, or lies on another grid than the others.
    """
    masks = _order_masks(case, structures)
    first = root / masks[0][1]
    volumes = [(index, root / path, _read_mask(root / path)) for index, path in masks]
    grid = volumes[0][2].grid
    for _, path, volume in volumes[1:]:
        check_same_grid(grid, volume.grid, what=f"{path} (found) and {first} (expected)")
    combined = combine_masks(
        [(index, volume.array != 0) for index, _, volume in volumes], structure_count=len(structures)
    )
    _write(folder / _name_joined(case, structures), combined.numbers, grid, like=first)
    voxels: dict[int, int] = {}
    for members, count in combined.voxels.items():
        for member in members:
            voxels[member + 1] = voxels.get(member + 1, 0) + count
    return LabelSurvey(
        name=case.name,
        voxels=voxels,
        combinations=combined.voxels,
        mixed=combined.mixed,
        voxel_count=combined.numbers.size,
        grid_differences=compare_grids([root / image for image in case.images], grid),
    )


def renumber(change: tuple[Path, Mapping[int, int]]) -> None:
    """Replaces numbers of combinations in a joined label map by values, in a worker process."""
    path, values = change
    volume = read_label_map(path)
    table = np.arange(1 + max(values))
    for number, value in values.items():
        table[number] = value
    _write(path, table[volume.array], volume.grid, like=path)


def _order_masks(case: DraftCase, structures: Sequence[str]) -> list[tuple[int, str]]:
    """Masks of a case with the index of their structure, ascending."""
    return sorted((structures.index(name), path) for name, path in case.masks.items())


def _name_joined(case: DraftCase, structures: Sequence[str]) -> str:
    ending = find_ending(Path(_order_masks(case, structures)[0][1]).name)
    assert ending is not None, "masks with unreadable endings were left out"
    return f"{case.name}{label_map_ending(ending)}"


def _list_new_values(survey: LabelSurvey, nesting: Nesting, structure_count: int) -> dict[int, int]:
    """Values by the numbers that combinations have in a joined label map."""
    return dict(enumerate(assign_values(survey.mixed, nesting), start=1 + structure_count))


def _read_mask(path: Path) -> LabelVolume:
    volume = read_label_map(path)
    values = [value for value in count_values(volume.array) if value != 0]
    if len(values) > 1:
        shown = ", ".join(map(str, values[:5])) + (" and more" if len(values) > 5 else "")
        msg = f"{path}: the mask of one structure holds 0 and one other value, found {shown}"
        raise VolumeError(msg)
    return volume


def _check_joinable(root: Path, structures: Sequence[str], nesting: Nesting, surveys: Sequence[LabelSurvey]) -> None:
    found = {value for survey in surveys for value in survey.voxels}
    problems = [
        f"{name}: all of its masks are empty; leave them out with --labels"
        for index, name in enumerate(structures)
        if index + 1 not in found
    ]
    problems += [
        f"{structures[first]} and {structures[second]} have the same voxels in every case; leave one of them out "
        f"with --labels"
        for first, second in nesting.equal
    ]
    problems += [
        f"{_describe_shared(overlap, structures)}, up to {overlap.largest_fraction:.0%} of the smaller one: a voxel of "
        f"a label map has one value; correct the masks, or leave one of the two out with --labels"
        for overlap in nesting.overlaps
        if overlap.largest_fraction > LARGEST_STRAY_FRACTION
    ]
    if problems:
        refuse(root, problems)


def _describe_overlap(overlap: Overlap, structures: Sequence[str]) -> str:
    return f"warning: {_describe_shared(overlap, structures)}, which are written as {structures[overlap.keeper]}"


def _describe_shared(overlap: Overlap, structures: Sequence[str]) -> str:
    counts = sorted(overlap.cases.items(), key=lambda entry: (-entry[1], entry[0]))
    shown = ", ".join(f"{name}: {count}" for name, count in counts[:MOST_CASES])
    more = f" and {len(counts) - MOST_CASES} more" if len(counts) > MOST_CASES else ""
    total = sum(overlap.cases.values())
    cases = f"{len(counts)} case{'' if len(counts) == 1 else 's'}"
    return (
        f"{structures[overlap.keeper]} and {structures[overlap.loser]} share {total} voxels in {cases} ({shown}{more})"
    )


def _list_missing(cases: Sequence[DraftCase], structures: Sequence[str]) -> list[str]:
    notes = []
    for structure in structures:
        without = [case.name for case in cases if structure not in case.masks]
        if without:
            shown = ", ".join(without[:MOST_CASES]) + (" and more" if len(without) > MOST_CASES else "")
            notes.append(
                f"warning: {len(without)} of {len(cases)} cases have no mask of {structure} and are taken to have no "
                f"{structure}: {shown}"
            )
    return notes


def _write(path: Path, array: Integer[np.ndarray, "z y x"], grid: Grid, *, like: Path) -> None:
    kind = np.uint8 if int(array.max()) <= np.iinfo(np.uint8).max else np.uint16
    write_label_map(path, array.astype(kind), grid=grid, like=like)
