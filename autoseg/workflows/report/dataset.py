"""The sections about the dataset and the plan of a run."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np

from autoseg.errors import shorten_names
from autoseg.fingerprint import Fingerprint
from autoseg.geometry import remove_planar_depth
from autoseg.plan import Plan
from autoseg.report.blocks import Block, Decisions, Facts, Figure, Notes, Section, Table
from autoseg.report.charts import draw_ranges, draw_strips
from autoseg.workflows.plan.case_warnings import warn_of_intensities, warn_of_spacing
from autoseg.workflows.plan.class_counts import count_class_occurrences, find_duplicates, warn_of_rare_classes
from autoseg.workflows.plan.class_losses import find_crop_losses, find_resampling_losses, warn_of_losses
from autoseg.workflows.plan.splitting import describe_duplicates
from autoseg.workflows.report.contents import RunContents

ML_PER_MM3 = 1e-3
SAME_SPACING_MM = 1e-3
AXES = ("z", "y", "x")


def describe_dataset(contents: RunContents) -> Section | None:
    """Describes cases, grids, intensities and classes, and everything odd that planning noticed."""
    fingerprint = contents.fingerprint
    if fingerprint is None:
        return None
    is_pixel = fingerprint.distance_unit == "pixel"
    blocks: list[Block] = [
        Facts(list(_list_facts(contents, fingerprint))),
        Notes(list_notes(contents, fingerprint)),
        _tabulate_classes(fingerprint),
    ]
    volumes = compute_class_volumes(fingerprint)
    if any(volumes.values()):
        unit = "thousands of voxels" if is_pixel else "ml"
        caption = f"Size of each class in the cases that hold it, in {unit}, with the median."
        label = f"size of the class ({unit}, logarithmic)"
        blocks.append(Figure(caption, draw_strips(volumes, label=label, is_logarithmic=True)))
    blocks += _draw_grids(fingerprint)
    if any(channel.foreground is not None for channel in fingerprint.channels):
        blocks.append(_draw_intensities(fingerprint))
    lead = f"What {fingerprint.dataset_name} holds, as measured before planning."
    return Section("dataset", "Dataset", lead, blocks)


def describe_plan(plan: Plan) -> Section:
    """Describes every decision of the plan with its reason."""
    entries = [(*_split_subject(reason.subject, plan), reason.value, reason.because) for reason in plan.reasons]
    groups = groupby(sorted(entries, key=lambda entry: _rank(entry[0], plan)), key=lambda entry: entry[0])
    decisions = [Decisions(title, [entry[1:] for entry in same]) for title, same in groups]
    lead = f"Every decision of the planner {plan.planner}, with the numbers that led to it."
    return Section("plan", "Plan", lead, [_tabulate_plan(plan), *decisions])


def compute_class_volumes(fingerprint: Fingerprint) -> dict[str, list[float]]:
    """Computes the size of every class in ml (thousands of voxels without spacing), in the cases that hold it."""
    tells_spacing = fingerprint.distance_unit == "mm"
    sizes = [
        measure_voxel_ml(case.spacing_mm, case.shape_voxels, tells_spacing=tells_spacing) for case in fingerprint.cases
    ]
    return {
        name: [
            case.voxel_counts[index] * size
            for case, size in zip(fingerprint.cases, sizes, strict=True)
            if case.voxel_counts[index]
        ]
        for index, name in enumerate(fingerprint.labels.class_names)
    }


def measure_voxel_ml(
    spacing_mm: tuple[float, float, float], shape_voxels: tuple[int, int, int], *, tells_spacing: bool
) -> float:
    """Measures a voxel in ml; a 2D image counts as 1 mm thick, and a voxel without spacing as 1 cubic mm."""
    depth, height, width = remove_planar_depth(shape_voxels, spacing_mm) if tells_spacing else (1.0, 1.0, 1.0)
    return ML_PER_MM3 * depth * height * width


def list_notes(contents: RunContents, fingerprint: Fingerprint) -> list[str]:
    """Lists what `autoseg check` and `autoseg plan` remark on the cases."""
    classes = count_class_occurrences(fingerprint.labels, fingerprint.cases)
    losses = (
        *find_crop_losses(fingerprint.labels, fingerprint.cases),
        *find_resampling_losses(fingerprint.labels, fingerprint.cases, distance_unit=fingerprint.distance_unit),
    )
    return [
        *warn_of_rare_classes(classes, counted=len(fingerprint.cases)),
        *warn_of_losses(losses, case_count=len(fingerprint.cases)),
        *warn_of_intensities(fingerprint.cases),
        *warn_of_spacing(fingerprint.cases, fingerprint.distance_unit),
        *describe_duplicates(find_duplicates(fingerprint.cases), contents.splits),
    ]


def _list_facts(contents: RunContents, fingerprint: Fingerprint) -> Iterator[tuple[str, str]]:
    yield "Cases", str(len(fingerprint.cases))
    yield "Channels", shorten_names([channel.name for channel in fingerprint.channels])
    yield "Classes", str(len(fingerprint.labels.class_names))
    shape = np.median([case.shape_voxels for case in fingerprint.cases], axis=0)
    yield "Median shape (z, y, x)", " x ".join(f"{value:.0f}" for value in shape)
    if fingerprint.distance_unit == "mm":
        spacing = np.median([case.spacing_mm for case in fingerprint.cases], axis=0)
        yield "Median spacing (mm)", " x ".join(f"{value:.3g}" for value in spacing)
    if fingerprint.orientation is not None:
        yield "Orientation", fingerprint.orientation
    yield "Files", fingerprint.file_ending
    duplicates = find_duplicates(fingerprint.cases)
    yield "Copies of an image", str(sum(len(same) - 1 for same in duplicates)) if duplicates else "none"
    if contents.dataset is not None and contents.dataset.groups:
        groups = contents.dataset.groups
        yield "Groups", f"{len(set(groups.values()))}, of {_join_sizes(Counter(groups.values()).values())} cases"
    if contents.splits is not None:
        held_out = [len(fold.validation) for fold in contents.splits.folds]
        yield "Folds", f"{len(held_out)}, of {_join_sizes(held_out)} held-out cases"


def _join_sizes(sizes: Iterable[int]) -> str:
    different = sorted(set(sizes))
    return " or ".join(map(str, different)) if len(different) < 3 else f"{different[0]} to {different[-1]}"


def _tabulate_classes(fingerprint: Fingerprint) -> Table:
    counts = count_class_occurrences(fingerprint.labels, fingerprint.cases)
    rows = [(count.name, shorten_names(list(map(str, count.values))), count.cases, count.voxels) for count in counts]
    return Table(("class", "values", "cases", "voxels"), rows, title="Classes", formats={"voxels": ","})


def _draw_grids(fingerprint: Fingerprint) -> Iterator[Figure]:
    """Draws the extents of the cases, and their spacings where they differ."""
    shapes, spacing = np.array([case.shape_voxels for case in fingerprint.cases]), _list_spacings(fingerprint)
    planes = [axis for axis in range(3) if (shapes[:, axis] > 1).any()]
    unit = "pixels" if fingerprint.distance_unit == "pixel" else "mm"
    extents = {f"extent {AXES[axis]}": (shapes * spacing)[:, axis].tolist() for axis in planes}
    yield Figure("Extent of every case along each axis, with the median.", draw_strips(extents, label=unit))
    if (np.ptp(spacing, axis=0) > SAME_SPACING_MM).any():
        spacings = {f"spacing {AXES[axis]}": spacing[:, axis].tolist() for axis in planes}
        yield Figure("Spacing of every case along each axis, with the median.", draw_strips(spacings, label=unit))


def _list_spacings(fingerprint: Fingerprint) -> np.ndarray:
    spacing = np.array([case.spacing_mm for case in fingerprint.cases])
    return np.ones_like(spacing) if fingerprint.distance_unit == "pixel" else spacing


def _draw_intensities(fingerprint: Fingerprint) -> Figure:
    known = {channel.name: channel.foreground for channel in fingerprint.channels if channel.foreground is not None}
    rows = {
        name: (found.min, found.percentile_00_5, found.median, found.percentile_99_5, found.max)
        for name, found in known.items()
    }
    caption = (
        "Intensities inside the classes: smallest and largest value (line), 0.5th to 99.5th percentile (bar), median."
    )
    return Figure(caption, draw_ranges(rows, label="intensity"))


def _tabulate_plan(plan: Plan) -> Table:
    chosen = plan.configurations.values()
    rows = [
        (f"spacing ({'mm' if plan.distance_unit == 'mm' else 'pixels'})", *(_join(c.spacing_mm) for c in chosen)),
        ("median shape", *(_join(c.median_shape_voxels) for c in chosen)),
        ("patch", *(_join(c.patch_voxels) for c in chosen)),
        ("batch", *(str(c.training.batch_size) for c in chosen)),
        ("network", *(c.network.family for c in chosen)),
    ]
    return Table(("", *plan.configurations), rows, title="Configurations")


def _join(values: Sequence[float | int]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)


def _split_subject(subject: str, plan: Plan) -> tuple[str, str]:
    """Splits "3d_fullres: patch size" into the configuration and the rest; other subjects are about all data."""
    head, separator, rest = subject.partition(": ")
    return (head, rest) if separator and head in plan.configurations else ("All configurations", subject)


def _rank(title: str, plan: Plan) -> int:
    names = ("All configurations", *plan.configurations)
    return names.index(title)
