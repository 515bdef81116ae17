"""Objects in a report: counted by class, drawn apart, and compared with those of the training cases."""

from pathlib import Path

import numpy as np
import pytest
from builders.fingerprints import build_case, build_fingerprint
from builders.objects import TWO_CLASSES, answer_perfectly, draw_balls
from builders.plans import build_configuration, build_plan

from autoseg.document import write_document
from autoseg.errors import PredictionError
from autoseg.evaluation.instances import ObjectScores
from autoseg.geometry import Grid
from autoseg.plan import Plan
from autoseg.postprocessing.instances import build_usual_rules, find_objects
from autoseg.postprocessing.object_table import describe_objects
from autoseg.processes.progress import SilentProgress
from autoseg.report.blocks import Table
from autoseg.volume_io import read_label_map, write_label_map
from autoseg.workflows.evaluate.objects import ClassObjects, ObjectEvaluation
from autoseg.workflows.predict.objects import ObjectFinder, find_objects_files
from autoseg.workflows.report.objects import join_classes, separate_objects
from autoseg.workflows.report.predicted_cases import PredictedFolder, read_predictions
from autoseg.workflows.report.predictions import describe_predictions, show_predictions

GRID = Grid(shape_voxels=(8, 16, 32), spacing_mm=(1.0, 1.0, 1.0))
BALLS = {1: ((4, 8, 6), 4.0), 2: ((4, 8, 14), 4.0), 3: ((4, 8, 26), 4.0)}
GLAND = 3  # the number of the third ball
NAME = "a.nii.gz"


def build_objects_plan() -> Plan:
    network = {"output_channels": 1 + 2 * TWO_CLASSES.class_count}
    configuration = build_configuration((8, 8, 8), network=network)
    return build_plan({"3d_fullres": configuration}, labels=TWO_CLASSES.target_labels, instances=TWO_CLASSES)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What `autoseg predict` writes of an image with two cells that touch, and a gland."""
    numbers = draw_balls(GRID.shape_voxels, BALLS)
    classes = np.select([numbers == GLAND, numbers > 0], [2, 1], 0)
    maps = answer_perfectly(classes, numbers, spacing_mm=GRID.spacing_mm, targets=TWO_CLASSES)
    rules = build_usual_rules(TWO_CLASSES.labels)
    found = find_objects(maps, rules, grid=GRID)
    rows = describe_objects(found, maps.probabilities, case="a", rules=rules, grid=GRID)
    finder = ObjectFinder(out=tmp_path / "out", targets=TWO_CLASSES, rules=rules)
    label_map = TWO_CLASSES.labels.decode(classes)
    write_label_map(finder.out / NAME, finder.write(NAME, (label_map, found.numbers, rows), GRID), grid=GRID, like=None)
    return finder.out


def read(out: Path) -> PredictedFolder:
    return read_predictions(out, build_objects_plan(), None)


def test_objects_are_counted_with_their_volume_by_class_and_drawn_by_class(out: Path) -> None:
    plan, found = build_objects_plan(), read(out)
    (case,) = found.cases
    assert (dict(case.objects), case.concerns) == ({"cell": 2, "gland": 1}, ())
    voxels = np.count_nonzero(read_label_map(out / NAME).array == 7)
    assert case.volumes_ml["gland"] == pytest.approx(voxels / 1000)
    (table,) = [block for block in describe_predictions(found, out, plan).blocks if isinstance(block, Table)]
    assert table.columns[1:5] == ["cell (objects)", "cell (ml)", "gland (objects)", "gland (ml)"]
    assert [table.rows[0][1], table.rows[0][3]] == [2, 1]
    assert ("cell, objects", "2") in case.details
    (shown,) = show_predictions(found.cases, plan, progress=SilentProgress())
    assert set(shown.volumes) == {"prediction"}


def test_touching_objects_are_shown_with_a_gap_and_none_vanishes() -> None:
    numbers = np.array([[[1, 1, 2, 3, 3, 0, 4]]])
    classes = np.where(numbers > 0, 1, 0)
    assert separate_objects(classes, numbers).tolist() == [[[1, 1, 1, 0, 1, 0, 1]]]  # the second is one voxel alone


def test_objects_that_were_changed_are_looked_at_first_and_missing_ones_are_named(out: Path) -> None:
    path, table = find_objects_files(out, NAME)
    numbers = read_label_map(path).array
    write_label_map(path, np.where(numbers == GLAND, 0, numbers), grid=GRID, like=None)
    (case,) = read(out).cases
    assert case.objects["gland"] == 0
    assert case.concerns == ("the map of its objects is not that of its table: it was changed since it was predicted",)
    assert case.urgency[0] == -np.inf
    table.unlink()
    assert read(out).cases[0].concerns == ("there is no table of its objects",)
    write_label_map(path, numbers[:, 1:], grid=Grid(shape_voxels=(8, 15, 32), spacing_mm=(1.0, 1.0, 1.0)), like=None)
    with pytest.raises(PredictionError, match=r"instances/a\.nii\.gz: expected the grid of its label map"):
        read(out)
    path.unlink()
    with pytest.raises(PredictionError, match=r"expected the numbers of the objects of a\.nii\.gz, found none"):
        read(out)


def test_maps_of_numbers_are_not_taken_for_classes(out: Path) -> None:
    with pytest.raises(PredictionError, match="name the OUT of a prediction by this run"):
        read(out / "instances")


def test_usual_volumes_are_those_of_core_and_border_together() -> None:
    cases = [build_case((1.0, 1.0, 1.0), (8, 8, 8), name="a", voxel_counts=(10, 20, 3, 4))]
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (8, 8, 8), labels=TWO_CLASSES.target_labels, cases=cases)
    joined = join_classes(fingerprint, TWO_CLASSES)
    assert joined.labels.class_names == ("cell", "gland")
    assert joined.cases[0].voxel_counts == (13, 24)


def test_scores_of_evaluated_objects_are_shown(out: Path) -> None:
    scores = ObjectScores(AP=0.5, AP50=0.75, AP75=0.25, F1=0.8, SQ=0.9, PQ=0.72, predicted=3, expected=4, matched=3)
    pooled = ClassObjects(pooled=scores, ap_over_cases=None, ap50_over_cases=None, pq_over_cases=None)
    write_document(
        out / "object_scores.json",
        ObjectEvaluation(definitions={}, classes={"instances": {"cell": pooled}}, cases={}),
    )
    table = describe_predictions(read(out), out, build_objects_plan()).blocks[-1]
    assert isinstance(table, Table)
    assert table.rows == [["cell", "instances", 0.75, 0.25, 0.5, 0.8, 0.9, 0.72, 3, 4, 3]]
