"""How well quality is estimated: python -m benchmarks.quality RUN [--damaged CASES] [--foreign IMAGE].

Every case is judged by a calibration that is fitted to the cases of the other folds, as `autoseg select` fits it to all
of them. Damaged versions of the images are predicted by the network that held their case out. An image of another body
part is cut into pieces of the size of the images, with their spacing.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from autoseg.dataset import DatasetRecord
from autoseg.dataset.record import restore_dataset
from autoseg.document import read_document
from autoseg.geometry import Grid
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.inference.options import DEFAULT_OPTIONS
from autoseg.postprocessing.application import apply_rules
from autoseg.preprocessing.case import compute_plan_axes
from autoseg.processes.progress import SilentProgress
from autoseg.quality.calibration import ScoredCase, fit_calibration
from autoseg.quality.distribution import Distribution
from autoseg.quality.estimates import CaseQuality, estimate_case
from autoseg.quality.features import CaseFeatures, NetworkFeatures
from autoseg.quality.images import measure_image
from autoseg.quality.probabilities import measure_probabilities
from autoseg.quality.regression import compute_rank_correlation
from autoseg.quality.shapes import measure_shapes
from autoseg.run_folder import RunFolder, open_run
from autoseg.volume_io import Volume, read_image
from autoseg.workflows.cases.references import find_reference
from autoseg.workflows.evaluate.evaluation import EvaluationJob
from autoseg.workflows.select.held_out import HeldOut, find_held_out
from autoseg.workflows.select.quality import score_held_out
from autoseg.workflows.select.selection_document import Selection, read_selection
from autoseg.workflows.select.stored_predictions import VariantJob

Damage = Callable[[Volume, np.random.Generator], Volume]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--damaged", type=int, default=60, help="cases that are damaged in each way")
    parser.add_argument("--foreign", type=Path, help="image of another body part")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    run = open_run(arguments.run)
    selection = read_selection(run)
    if selection is None:
        sys.exit(f"{run.root} has no selection; run autoseg select first")
    (member,) = find_held_out(
        run, configurations=[one.configuration for one in selection.members], folds=selection.members[0].folds
    )
    cases = [case for case in selection.cases if case in member.holders]
    jobs = _list_jobs(run, member, cases, selection)
    scored = score_held_out(run, (member,), jobs, selection, device="auto", progress=SilentProgress())
    blocks = np.array([int(member.holders[case]) for case in scored], np.int64)
    judges = {block: _fit(list(scored.values()), blocks, block, member) for block in np.unique(blocks).tolist()}
    judged = {
        case: _judge(case, entry.features, judges[int(member.holders[case])], member) for case, entry in scored.items()
    }
    figures = {"scores": _judge_scores(scored, judged, member), "flags": {}}
    print(f"{len(scored)} held-out cases of {run.root.name}, each judged by a calibration without its fold\n")
    _print_scores(figures["scores"])
    flags = {"undamaged": [judged[case] for case in scored]}
    images = _find_images(run)
    for name, damage in _list_damages(arguments.foreign).items():
        chosen = list(scored)[:: max(1, len(scored) // arguments.damaged)][: arguments.damaged]
        flags[name] = _judge_damaged(
            run, member, {case: images[case] for case in chosen}, selection=selection, judges=judges, damage=damage
        )
    figures["flags"] = _print_flags(flags)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def _list_jobs(run: RunFolder, member: HeldOut, cases: list[str], selection: Selection) -> list[EvaluationJob]:
    """Lists the label maps that were predicted with the chosen options, and their references."""
    if selection.options != DEFAULT_OPTIONS:
        depth = selection.members[0].pruned_depth
        job = VariantJob(run=run, members=(member,), cases=tuple(cases), pruned_depth=depth)
        return list(job.list_jobs(selection.options))
    return [
        EvaluationJob(
            case=case,
            prediction=member.find_label_map(run, case),
            reference=find_reference(run, case),
            labels=member.plan.labels,
        )
        for case in cases
    ]


def _fit(cases: Sequence[ScoredCase], blocks: np.ndarray, left_out: int, member: HeldOut) -> tuple[tuple, Distribution]:
    is_used = blocks != left_out
    return fit_calibration(
        [entry for entry, used in zip(cases, is_used, strict=True) if used],
        blocks[is_used],
        channel_names=_list_channels(member),
        class_names=member.plan.labels.class_names,
    )


def _list_channels(member: HeldOut) -> list[str]:
    return [channel.name for channel in member.plan.channels]


def _judge(case: str, features: CaseFeatures, judge: tuple[tuple, Distribution], member: HeldOut) -> CaseQuality:
    return estimate_case(
        case,
        case,
        features,
        classes=judge[0],
        distribution=judge[1],
        channel_names=_list_channels(member),
        class_names=member.plan.labels.class_names,
    )


def _judge_scores(
    scored: dict[str, ScoredCase], judged: dict[str, CaseQuality], member: HeldOut
) -> dict[str, dict[str, float]]:
    rows = {}
    names = member.plan.labels.class_names
    for score in ("dice", "nsd"):
        table = [
            (case, index, getattr(judged[case].classes[name], score), getattr(entry, score)[index])
            for case, entry in scored.items()
            for index, name in enumerate(names)
        ]
        known = [row for row in table if row[2] is not None and row[3] is not None]
        for index, name in enumerate(names):
            rows[f"{score} {name}"] = _judge_rows([row for row in known if row[1] == index])
        rows[f"{score}, all classes"] = _judge_rows(known)
        rows[f"{score}, mean of the case"] = _judge_means(known)
    volumes = [
        (judged[case].classes[name].volume, entry.reference_ml[index])
        for case, entry in scored.items()
        for index, name in enumerate(names)
    ]
    inside = [found.low <= true <= found.high for found, true in volumes if found.low is not None and true > 0]
    rows["volume, all classes"] = {"cases": len(inside), "coverage": float(np.mean(inside))}
    return rows


def _judge_rows(rows: Sequence[tuple]) -> dict[str, float]:
    estimates, truth = np.array([row[2].value for row in rows]), np.array([row[3] for row in rows])
    inside = [row[2].low <= row[3] <= row[2].high for row in rows]
    widths = [row[2].high - row[2].low for row in rows]
    return _compare(estimates, truth) | {"coverage": float(np.mean(inside)), "width": float(np.mean(widths))}


def _judge_means(rows: Sequence[tuple]) -> dict[str, float]:
    cases = dict.fromkeys(row[0] for row in rows)
    estimates = np.array([np.mean([row[2].value for row in rows if row[0] == case]) for case in cases])
    truth = np.array([np.mean([row[3] for row in rows if row[0] == case]) for case in cases])
    return _compare(estimates, truth)


def _compare(estimates: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    worst = set(np.argsort(truth, kind="stable")[: max(1, len(truth) // 10)].tolist())
    lowest = set(np.argsort(estimates, kind="stable")[: len(truth) // 3].tolist())
    return {
        "cases": len(truth),
        "mean": float(truth.mean()),
        "deviation": float(np.abs(truth - np.median(truth)).mean()),
        "error": float(np.abs(estimates - truth).mean()),
        "rank correlation": compute_rank_correlation(estimates, truth),
        "recall of the worst tenth": len(worst & lowest) / len(worst),
    }


COLUMNS = ("cases", "mean", "deviation", "error", "coverage", "width", "rank correlation", "recall of the worst tenth")


def _print_scores(rows: dict[str, dict[str, float]]) -> None:
    print("| score | " + " | ".join(COLUMNS) + " |")
    print("|---" * (1 + len(COLUMNS)) + "|")
    for name, row in rows.items():
        cells = [f"{row[key]:.3f}" if key in row and key != "cases" else str(row.get(key, "")) for key in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print()


def _list_damages(foreign: Path | None) -> dict[str, Damage]:
    damages: dict[str, Damage] = {
        "noise (1 standard deviation)": add_noise,
        "blur (2 voxels)": blur,
        "cut off in the middle": cut_off,
        "mirrored front to back": lambda volume, generator: flip(volume, 1),
        "upside down": lambda volume, generator: flip(volume, 0),
        "turned by 90 degrees": turn,
    }
    if foreign is not None:
        whole = read_image((foreign,), channel_count=1)
        damages["another body part"] = lambda volume, generator: cut_piece(whole, volume, generator)
    return damages


def add_noise(volume: Volume, generator: np.random.Generator) -> Volume:
    """Adds normal noise with the standard deviation of the image."""
    noise = generator.standard_normal(volume.array.shape).astype(np.float32)
    return replace(volume, array=volume.array + noise * volume.array.std())


def blur(volume: Volume, generator: np.random.Generator) -> Volume:
    """Blurs by a normal distribution with a standard deviation of 2 voxels."""
    del generator
    return replace(volume, array=np.stack([ndimage.gaussian_filter(one, 2.0) for one in volume.array]))


def cut_off(volume: Volume, generator: np.random.Generator) -> Volume:
    """Keeps one half of the image along its longest axis."""
    shape = volume.grid.shape_voxels
    axis = int(np.argmax(shape))
    half = slice(0, shape[axis] // 2) if generator.random() < 0.5 else slice(shape[axis] // 2, None)
    index = tuple(half if place == axis else slice(None) for place in range(3))
    array = np.ascontiguousarray(volume.array[(slice(None), *index)])
    return replace(volume, array=array, grid=replace(volume.grid, shape_voxels=array.shape[1:]))


def flip(volume: Volume, axis: int) -> Volume:
    """Mirrors the image while its header stays as it is."""
    return replace(volume, array=np.ascontiguousarray(np.flip(volume.array, axis + 1)))


def turn(volume: Volume, generator: np.random.Generator) -> Volume:
    """Turns the image about the axis from left to right while its header stays as it is."""
    del generator
    array = np.ascontiguousarray(np.rot90(volume.array, axes=(1, 2)))
    return replace(volume, array=array, grid=replace(volume.grid, shape_voxels=array.shape[1:]))


def cut_piece(whole: Volume, like: Volume, generator: np.random.Generator) -> Volume:
    """Cuts a piece of the size of an image out of another one, and gives it the grid of the image."""
    extents = [min(a, b) for a, b in zip(like.grid.shape_voxels, whole.grid.shape_voxels, strict=True)]
    starts = [
        int(generator.integers(0, size - extent + 1))
        for extent, size in zip(extents, whole.grid.shape_voxels, strict=True)
    ]
    index = tuple(slice(start, start + extent) for start, extent in zip(starts, extents, strict=True))
    array = np.ascontiguousarray(whole.array[(slice(None), *index)])
    return replace(like, array=array, grid=replace(like.grid, shape_voxels=tuple(extents)))


def _find_images(run: RunFolder) -> dict[str, tuple[Path, ...]]:
    dataset = restore_dataset(read_document(run.dataset, DatasetRecord))
    return {case.name: case.image_paths for case in dataset.cases}


def _judge_damaged(
    run: RunFolder,
    member: HeldOut,
    images: dict[str, tuple[Path, ...]],
    *,
    selection: Selection,
    judges: dict[int, tuple[tuple, Distribution]],
    damage: Damage,
) -> list[CaseQuality]:
    found = []
    model: SegmentationModel | None = None
    for case in sorted(images, key=member.holders.__getitem__):
        fold = member.holders[case]
        if model is None or model.folds != (fold,):
            model = load_model(run, configuration=member.configuration, folds=(fold,), execution="eager")
        volume = damage(
            read_image(images[case], channel_count=len(member.plan.channels)), np.random.default_rng(len(found))
        )
        features = measure_case(model, volume.array, volume.grid, selection)
        found.append(_judge(case, features, judges[int(fold)], member))
    return found


def measure_case(model: SegmentationModel, array: np.ndarray, grid: Grid, selection: Selection) -> CaseFeatures:
    """Predicts an image and measures the features of the prediction."""
    plan = model.plan
    case = model.preprocess(array, grid, warn=lambda text: None)
    logits = model.predict_case(case, options=selection.options)
    network = NetworkFeatures(
        image=measure_image(case.image, case.geometry),
        probabilities=measure_probabilities(logits, case.image, plan.labels),
    )
    label_map = plan.labels.encode(model.restore_label_map(logits, case.geometry, decoding=selection.options.decoding))
    finished = apply_rules(label_map, selection.postprocessing.rules, labels=plan.labels, spacing_mm=grid.spacing_mm)
    axes = compute_plan_axes(grid, plan.orientation, plan.axis_permutation)
    shapes = measure_shapes(axes.apply(finished), axes.apply_to_grid(grid).spacing_mm, plan.labels)
    return CaseFeatures(network=network, shapes=shapes)


def _print_flags(flags: dict[str, list[CaseQuality]]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    kinds = dict.fromkeys(flag.kind for cases in flags.values() for case in cases for flag in case.flags)
    print("| images | cases | flagged | " + " | ".join(kinds) + " |")
    print("|---" * (3 + len(kinds)) + "|")
    for name, cases in flags.items():
        shares = {kind: float(np.mean([any(f.kind == kind for f in case.flags) for case in cases])) for kind in kinds}
        rows[name] = {"cases": len(cases), "flagged": float(np.mean([bool(case.flags) for case in cases]))} | shares
        cells = " | ".join(f"{shares[kind]:.0%}" for kind in kinds)
        print(f"| {name} | {len(cases)} | {rows[name]['flagged']:.1%} | {cells} |")
    return rows


if __name__ == "__main__":
    main()
