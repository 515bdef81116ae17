"""Boxes that a first stage finds, as rows of a table beside the predictions."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.geometries import build_geometry
from builders.labels import build_labels
from builders.objects import CELLS
from builders.plans import build_configuration, build_plan

from autoseg.geometry import Grid
from autoseg.inference.sliding_window.box import compute_scores
from autoseg.nonzero_region import Box, compute_bounding_box, slice_box
from autoseg.plan import BoxOfPreviousStage
from autoseg.plan.network import DetectorPlan
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.stages.found_boxes import list_boxes, locate_in_file
from autoseg.stages.previous_input import StagePrediction
from autoseg.stages.staged_case import FoundBox, StagedCase
from autoseg.workflows.predict.boxes import find_boxes_file, merge_boxes, remove_old_boxes, write_boxes

SHAPE = (6, 8, 10)
EVERYWHERE = (slice(None),) * 3
LABELS = build_labels({"organ": (1,), "lesion": (2,)})
REGIONS = build_labels({"organ": (1, 2), "lesion": (2,)}, region_write_values=(1, 2))


@pytest.mark.parametrize("orientation", [None, "LPS", "ASR", "RAS"])
@pytest.mark.parametrize("permutation", [(0, 1, 2), (2, 0, 1)])
def test_a_box_of_a_preprocessed_image_is_found_again_in_the_file(
    orientation: str | None, permutation: tuple[int, int, int]
) -> None:
    geometry = build_geometry(
        SHAPE, grid=Grid(shape_voxels=SHAPE, spacing_mm=(3.0, 1.0, 2.0)), orientation=orientation
    ).model_copy(update={"axis_permutation": permutation})
    whole = geometry.uncropped_shape_voxels
    crop: Box = ((1, whole[0]), (0, whole[1] - 1), (2, whole[2]))
    cropped = tuple(end - first for first, end in crop)
    geometry = geometry.model_copy(
        update={"crop_box": crop, "cropped_shape_voxels": cropped, "resampled_shape_voxels": cropped}
    )
    box: Box = ((1, 3), (2, 4), (0, 2))
    in_file = np.zeros(SHAPE, bool)
    geometry.reorientation.apply(in_file)[slice_box(crop)][slice_box(box)] = True  # views of the file's voxels
    assert locate_in_file(box, geometry) == compute_bounding_box(in_file)


def test_a_box_of_a_coarser_image_holds_every_voxel_that_it_touches() -> None:
    geometry = build_geometry(SHAPE, resampled_shape_voxels=(3, 3, 5), target_spacing_mm=(2.0, 8 / 3, 2.0))
    assert locate_in_file(((1, 2), (1, 2), (0, 5)), geometry) == ((2, 4), (2, 6), (0, 10))


def find(label_map: np.ndarray, scores: np.ndarray | None, box: Box | None, **changes: Any) -> list[FoundBox]:
    first = build_configuration((8, 8, 8), data_of="3d_lowres")
    stage = BoxOfPreviousStage(configuration="3d_lowres", margin_mm=1.0)
    second = build_configuration((8, 8, 8), data_of="3d_roi").model_copy(update={"previous_stage": stage})
    plan = build_plan({"3d_lowres": first, "3d_roi": second}).model_copy(update=changes)
    coarse = build_geometry(SHAPE, resampled_shape_voxels=label_map.shape)
    prediction = StagePrediction(
        geometry=coarse,
        restore_label_map=lambda between: label_map,
        compute_scores=None if scores is None else lambda place: scores[(slice(None), *place)],
    )
    return list_boxes(prediction, box, build_geometry(SHAPE), plan=plan, configuration="3d_roi")


def test_every_component_of_every_class_has_a_row_the_surest_first_and_the_box_of_the_next_stage_is_last() -> None:
    label_map = np.zeros((3, 4, 5), np.int16)
    label_map[0, 0, :2], label_map[2, 3, 4], label_map[1, 2, 2] = 1, 1, 2
    scores = np.full((2, 3, 4, 5), 0.1, np.float32)
    scores[0, 0, 0, 1], scores[0, 2, 3, 4], scores[1, 1, 2, 2] = 0.7, 0.95, 0.8
    used = ((1, 5), (0, 8), (2, 9))
    rows = [tuple(row.model_dump().values()) for row in find(label_map, scores, used)]
    class_names = build_plan({"2d": build_configuration((8, 8), data_of="2d")}).labels.class_names
    assert rows == [
        ("3d_lowres", class_names[0], 0.95, ((4, 6), (6, 8), (8, 10))),
        ("3d_lowres", class_names[1], 0.8, ((2, 4), (4, 6), (4, 6))),
        ("3d_lowres", class_names[0], 0.7, ((0, 2), (0, 2), (0, 4))),
        ("3d_roi", None, None, used),
    ]
    assert {row.score for row in find(label_map, None, used)} == {None}
    (whole,) = find(np.zeros((3, 4, 5), np.int16), scores, None)
    assert whole.box == ((0, 6), (0, 8), (0, 10))


def test_parts_of_objects_are_boxes_of_their_class() -> None:
    label_map = np.array([[[0, 2, 1, 2, 0]]], np.int16)  # core and border of one cell
    scores = np.array([0.2, 0.6, 0.9, 0.3, 0.1], np.float32) * np.ones((2, 1, 1, 1), np.float32)
    cell, _ = find(label_map, scores, None, instances=CELLS, labels=CELLS.target_labels)
    assert (cell.class_name, cell.score, cell.box[2]) == ("cell", 0.9, (2, 8))


def test_scores_are_probabilities_and_of_a_detector_those_of_its_boxes() -> None:
    network = build_configuration((8, 8, 8)).network
    logits = torch.zeros(4, 1, 1, 1)
    logits[1:3, 0, 0, 0] = torch.tensor([2.0, -1.0])  # the last channel is none of a class
    softmax = logits[:3, 0, 0, 0].softmax(0)[1:]
    found = compute_scores(EVERYWHERE, logits, labels=LABELS, network=network)
    assert found[:, 0, 0, 0] == pytest.approx(softmax.numpy())
    found = compute_scores(EVERYWHERE, logits, labels=REGIONS, network=network)
    assert found[:, 0, 0, 0] == pytest.approx([0.5, torch.tensor(2.0).sigmoid().item()])
    detector = DetectorPlan.model_construct(least_score=0.25)
    drawn = torch.tensor([0.0, math.log(3.0), 0.0]).reshape(3, 1, 1, 1)  # odds of 3 above those of the least score
    found = compute_scores(EVERYWHERE, drawn, labels=LABELS, network=detector)
    assert found[:, 0, 0, 0] == pytest.approx([0.5, 0.25])
    found = compute_scores(EVERYWHERE, drawn[1:], labels=REGIONS, network=detector)
    assert found[:, 0, 0, 0] == pytest.approx([0.5, 0.25])


def test_tables_have_voxels_and_mm_and_go_with_their_label_maps(tmp_path: Path) -> None:
    grid = Grid(shape_voxels=SHAPE, spacing_mm=(3.0, 0.5, 2.0))
    case = PreprocessedCase(image=np.zeros((1, *SHAPE), np.float32), label_map=None, geometry=build_geometry(SHAPE))
    box = ((1, 3), (2, 8), (0, 5))
    found = FoundBox(configuration="3d_detector", class_name="organ", score=0.9, box=box)
    used = found.model_copy(update={"configuration": "detect_then_segment", "class_name": None, "score": None})
    first = StagedCase(preprocessed=case, boxes=[found])
    members = [StagedCase(preprocessed=case, previous=first, boxes=[used]), first]
    merge_boxes(tmp_path, ["a.nii.gz"])
    assert not list(tmp_path.iterdir())
    for name in "ab":
        write_boxes(tmp_path, f"{name}.nii.gz", case=name, members=members, grid=grid)
    merge_boxes(tmp_path, ["b.nii.gz", "a.nii.gz"])
    rows = list(csv.DictReader((tmp_path / "boxes.csv").read_text().splitlines()))
    assert [(row["case"], row["configuration"], row["class_name"], row["score"]) for row in rows] == [
        (case, *rest) for case in "ab" for rest in (("3d_detector", "organ", "0.9"), ("detect_then_segment", "", ""))
    ]
    assert [rows[0][f"{end}_{axis}"] for axis in "xyz" for end in ("first", "last")] == ["0", "4", "2", "7", "1", "2"]
    ends = [float(rows[0][f"{end}_{axis}_mm"]) for axis in "xyz" for end in ("lower", "upper")]
    assert ends == [0.0, 10.0, 1.0, 4.0, 3.0, 9.0]
    remove_old_boxes(tmp_path, removed=["a.nii.gz", "none.nii.gz"])
    assert not find_boxes_file(tmp_path, "a.nii.gz").exists()
    merge_boxes(tmp_path, ["b.nii.gz"])
    assert len((tmp_path / "boxes.csv").read_text().splitlines()) == 3
    remove_old_boxes(tmp_path, removed=["b.nii.gz"])
    merge_boxes(tmp_path, ["a.nii.gz", "b.nii.gz"])
    assert not (tmp_path / "boxes.csv").exists()
