"""Cases whose objects are told apart: what is refused, read, recorded and copied."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from builders.datasets import describe_dataset, write_dataset
from builders.labels import build_labels
from builders.objects import CELLS, CENTRED, TWO_CLASSES, answer_perfectly, build_picture_grid, draw_balls, write_cells
from builders.volumes import save_nifti

import autoseg
from autoseg.dataset import (
    Case,
    Dataset,
    allow_geometry_fixes,
    read_dataset,
    record_dataset,
    restore_dataset,
    tell_instances_apart,
)
from autoseg.errors import DatasetError, EvaluationError, OptionError, PredictionError
from autoseg.evaluation.instances import Matches
from autoseg.labels import InstanceTargets
from autoseg.places.local import ThisComputer
from autoseg.postprocessing.instances import build_usual_rules, find_objects
from autoseg.processes.progress import SilentProgress
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_label_map
from autoseg.workflows.cases.reading import read_labelled_case
from autoseg.workflows.cases.references import copy_reference, find_reference_objects
from autoseg.workflows.evaluate.evaluation import pair_label_maps
from autoseg.workflows.plan.measuring import measure_dataset
from autoseg.workflows.predict import objects
from autoseg.workflows.predict.objects import ObjectFinder, check_objects_unchanged, check_rules
from autoseg.workflows.select.objects import THRESHOLDS, FoundInCase, choose_rules, match_case
from planners import PLANNERS


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    return write_cells(tmp_path / "Dataset001_Cells", cases=3)


def tell(folder: Path) -> Dataset:
    return tell_instances_apart(read_dataset(folder), 0.25)


def read(case: Case, dataset: Dataset) -> np.ndarray:
    return read_labelled_case(case, labels=dataset.labels, channel_names=dataset.channel_names).label_map


def test_every_case_needs_a_file_that_numbers_its_objects(cells: Path) -> None:
    (cells / "instancesTr" / "case1.nii.gz").unlink()
    with pytest.raises(DatasetError, match=r"case1.*holds no file of this case; expected instancesTr/case1"):
        tell(cells)


def test_regions_are_refused(cells: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "inner": [2]}
    describe_dataset(cells, labels=labels, regions_class_order=[1, 2])
    with pytest.raises(DatasetError, match="are regions; instances need labels that exclude each other"):
        tell(cells)


def test_numbers_beyond_the_foreground_and_on_another_grid_are_refused_and_the_latter_can_be_resampled(
    cells: Path,
) -> None:
    dataset = tell(cells)
    first, second, third = (cells / "instancesTr" / f"case{index}.nii.gz" for index in range(3))
    numbers = nib.load(first)
    array = np.asarray(numbers.dataobj).copy()
    array[0, 0] = 12
    nib.save(nib.Nifti1Image(array, numbers.affine), first)
    with pytest.raises(DatasetError, match=r"must lie within a foreground label.*beyond it are 12 \(1 voxels\)"):
        read(dataset.cases[0], dataset)
    coarse = np.asarray(nib.load(second).dataobj)[::2, ::2]
    nib.save(nib.Nifti1Image(coarse, numbers.affine @ np.diag([2, 2, 1, 1])), second)
    with pytest.raises(DatasetError, match="instance label map"):
        read(dataset.cases[1], dataset)
    third.unlink()
    with pytest.raises(DatasetError, match="plan again without telling objects apart"):
        read(replace(dataset.cases[2], instances=None), dataset)


def test_objects_of_volumes_are_read_as_cores_and_borders(tmp_path: Path) -> None:
    numbers = draw_balls((12, 20, 30), {2: ((6, 10, 9), 6.0), 300: ((6, 10, 20), 6.0)}).transpose(2, 1, 0)
    label_map = np.where(numbers > 0, np.uint8(4), np.uint8(0))
    image = (numbers > 0).astype(np.float32) + np.random.default_rng(0).random(numbers.shape, np.float32)
    folder = write_dataset(
        tmp_path / "Dataset002_Balls", [(name, (image, label_map)) for name in "ab"], labels={"ball": 4}
    )
    for name in "ab":
        save_nifti(folder / "instancesTr" / f"{name}.nii.gz", numbers)
    dataset = tell(folder)
    found = read(dataset.cases[0], dataset)
    assert dataset.labels.file_values == (0, 4, 5)
    assert dataset.declared_labels.file_values == (0, 4)
    assert np.array_equal(found > 0, label_map.transpose(2, 1, 0) > 0)
    assert (found[6, 10, 9], found[6, 10, 20]) == (1, 1)
    assert (found[6, 10, 14:16] == 2).all()  # on either side of the contact
    copy_reference(dataset.cases[0], tmp_path / "references")
    copied = read_label_map(tmp_path / "references" / "a.nii.gz").array
    assert np.array_equal(dataset.labels.encode(copied), found)
    copied = read_label_map(find_reference_objects(tmp_path / "references", "a")).array
    assert np.array_equal(copied, numbers.transpose(2, 1, 0))


def test_record_restores_the_task_and_notices_changed_numbers(cells: Path) -> None:
    dataset = tell(cells)
    record = record_dataset(dataset)
    assert restore_dataset(record).cases == dataset.cases
    assert restore_dataset(record).labels == dataset.labels == CELLS.target_labels
    assert record != record_dataset(read_dataset(cells))
    path = cells / "instancesTr" / "case0.nii.gz"
    path.write_bytes(path.read_bytes() + b"\0")
    assert record_dataset(tell(cells)) != record
    assert restore_dataset(record_dataset(allow_geometry_fixes(dataset))).cases[0].fix_geometry


def test_advice_about_values_names_those_of_the_dataset(cells: Path, tmp_path: Path) -> None:
    for path in (cells / "labelsTr").iterdir():
        loaded = nib.load(path)
        nib.save(nib.Nifti1Image(np.asarray(loaded.dataobj) * np.uint8(2), loaded.affine), path)
    with pytest.raises(DatasetError) as caught:
        measure_dataset(
            tell(cells), RunFolder(tmp_path), grids={}, workers=1, place=ThisComputer(), progress=SilentProgress()
        )
    assert '"cell": 2' in str(caught.value)
    assert "cell_core" not in str(caught.value)


def test_references_without_numbers_are_named(cells: Path) -> None:
    (cells / "instancesTr" / "case2.nii.gz").unlink()
    with pytest.raises(EvaluationError, match=r"1 of 3 predictions have no reference of their name.*case2"):
        pair_label_maps(cells / "labelsTr", cells / "instancesTr")


def build_found(ious: dict[float, list[float]], sizes: list[int], expected: int) -> FoundInCase:
    """Objects of one class that are found with the usual threshold, and with others."""

    def match(values: list[float]) -> Matches:
        padded = np.array([*values, *[0.0] * (len(sizes) - len(values))])
        references = np.full(expected, 50, np.int64)
        return Matches(predicted_voxels=np.array(sizes, np.int64), ious=padded, reference_voxels=references)

    usual = ious[0.5]
    grown = tuple((match(ious.get(threshold, usual)),) for threshold in THRESHOLDS)
    return FoundInCase(voxel_size=2.0, unit="mm2", grown=grown, components=(match([]),))


def test_threshold_and_minimum_are_learned_if_they_are_better_on_cases_that_were_left_out() -> None:
    found = [build_found({0.5: [0.6], 0.3: [0.9, 0.9]}, [60, 55, 10 + index], 2) for index in range(6)]
    choice, precision, _ = choose_rules(found, CELLS, blocks=np.arange(6) % 3)
    assert precision == pytest.approx(np.full((6, 1), 0.9))  # each case by the rules of the others
    (rule,) = choice.rules
    assert (rule.seed_threshold, rule.minimum_mm3, rule.unit) == (0.3, 100.0, "mm2")
    assert choice.gain is not None
    assert choice.gain.mean == pytest.approx(0.9 - 3 / 10 / 4)  # two matches below 0.95, instead of one below 0.65
    assert choice.scores["cell"].model_dump(include={"matched", "predicted", "expected"}) == {
        "matched": 12,
        "predicted": 12,
        "expected": 12,
    }
    assert choice.components["cell"].matched == 0


def test_what_is_predicted_where_the_reference_is_ignored_counts_as_no_object() -> None:
    numbers = draw_balls((1, 20, 40), {1: ((0, 9, 9), 6.0), 2: ((0, 9, 30), 6.0)})
    grid = build_picture_grid(numbers.shape)
    maps = answer_perfectly(numbers > 0, numbers, spacing_mm=grid.spacing_mm, targets=TWO_CLASSES)
    ignored = TWO_CLASSES.labels.ignore_label
    classes = np.where(np.arange(40) < 20, numbers > 0, ignored).astype(np.int16)
    known = np.where(np.arange(40) < 20, numbers, 0)
    found = match_case(maps, classes, known, targets=TWO_CLASSES, grid=grid)
    for matches in (found.components[0], *(of_classes[0] for of_classes in found.grown)):
        assert len(matches.predicted_voxels) == len(matches.reference_voxels) == 1
        assert matches.ious.tolist() == [1.0]


@pytest.mark.parametrize("is_numbered", [True, False])
def test_an_object_that_ignored_voxels_cut_is_one_component_where_it_is_one_object(is_numbered: bool) -> None:
    numbers = draw_balls((1, 20, 20), {1: ((0, 9, 9), 7.0)})
    grid = build_picture_grid(numbers.shape)
    maps = answer_perfectly(numbers > 0, numbers, spacing_mm=grid.spacing_mm, targets=TWO_CLASSES)
    is_ignored = np.isin(np.arange(20), (9, 10))
    classes = np.where(is_ignored, TWO_CLASSES.labels.ignore_label, numbers > 0).astype(np.int16)
    known = np.where(is_ignored, 0, numbers) * is_numbered
    found = match_case(maps, classes, known, targets=TWO_CLASSES, grid=grid)
    assert found.components[0].ious.tolist() == [1.0] * (1 if is_numbered else 2)


def test_a_rule_keeps_objects_by_their_whole_size_as_in_prediction_though_part_of_them_is_ignored() -> None:
    numbers = draw_balls((1, 20, 40), {1: ((0, 9, 20), 6.0), 2: ((0, 9, 7), 4.0)})
    grid = build_picture_grid(numbers.shape)
    maps = answer_perfectly(numbers > 0, numbers, spacing_mm=grid.spacing_mm, targets=TWO_CLASSES)
    is_scored = np.arange(40) < 20
    classes = np.where(is_scored, numbers > 0, TWO_CLASSES.labels.ignore_label).astype(np.int16)
    found = match_case(maps, classes, np.where(is_scored, numbers, 0), targets=TWO_CLASSES, grid=grid)
    whole, cut = int((numbers == 1).sum()), int((numbers == 1)[..., is_scored].sum())
    small = int((numbers == 2).sum())
    assert cut < whole
    for minimum, sizes in ((0, [whole, small]), (small + 1, [whole]), (cut + small, [whole]), (whole + 1, [])):
        rules = [
            rule.model_copy(update={"minimum_mm3": float(minimum)}) for rule in build_usual_rules(TWO_CLASSES.labels)
        ]
        kept = found.match(1, rules[0])
        assert sorted(kept.predicted_voxels.tolist(), reverse=True) == [size for size in sizes if size >= minimum]
        assert sorted(find_objects(maps, rules, grid=grid).voxels.tolist()) == sorted(kept.predicted_voxels.tolist())
        assert set(kept.ious.tolist()) <= {1.0}


def test_borders_get_free_values_that_eight_bits_hold_beside_the_ignored_one() -> None:
    values = {255: (0, 1, 2, 3, 4, 255), 3: (0, 1, 2, 4, 5, 3)}
    for ignored, expected in values.items():
        labels = build_labels({"cell": (1,), "gland": (2,)}, ignore_value=ignored)
        assert InstanceTargets(labels=labels, border_fraction=0.25).target_labels.file_values == expected


def test_usual_rules_stay_where_learned_ones_fail_on_other_cases_or_there_are_too_few() -> None:
    found = [build_found({0.5: [0.8], 0.3: [0.9 if index else 0.0]}, [60], 1) for index in range(4)]
    found[0] = build_found({0.5: [0.8], 0.3: []}, [60], 1)
    choice, precision, _ = choose_rules(found, CELLS, blocks=np.array([0, 1, 1, 1]))
    assert precision == pytest.approx(np.full((4, 1), 0.7))  # by the usual rules, which are taken
    assert choice.rules[0].seed_threshold == 0.5
    assert "so the usual ones are taken" in choice.because
    alone, *_ = choose_rules(found[1:], CELLS, blocks=np.zeros(3, np.int64))
    assert alone.gain is None
    assert alone.rules[0].seed_threshold == 0.5
    assert "too few held-out cases" in alone.because


def test_class_without_any_object_keeps_the_usual_rule() -> None:
    choice, *_ = choose_rules([build_found({0.5: []}, [], 0)] * 2, CELLS, blocks=np.arange(2))
    assert choice.rules[0].seed_threshold == 0.5
    assert choice.scores["cell"].AP is None


def test_an_interruption_between_map_and_table_is_no_correction_by_hand(tmp_path: Path, monkeypatch) -> None:
    finder = ObjectFinder(out=tmp_path, targets=CELLS, rules=build_usual_rules(CELLS.labels))
    grid, name = build_picture_grid((1, 4, 4)), "a.png"

    def write(count: int) -> None:
        numbers = np.zeros((1, 4, 4), np.int32)
        numbers[0, 0, :count] = 1
        finder.write(name, (numbers, numbers, ()), grid)

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    write(0)
    check_objects_unchanged(tmp_path, [name])
    monkeypatch.setattr(objects, "write_text", stop)
    with pytest.raises(KeyboardInterrupt):
        write(2)
    check_objects_unchanged(tmp_path, [name])


def test_centre_distances_are_learned_only_of_objects_and_rules_need_them(cells: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"centre distances are learned of objects.*--task instances"):
        autoseg.plan_dataset(cells, tmp_path / "run", planner=PLANNERS["default"], centre_steps=4)
    assert not (tmp_path / "run").exists()
    assert tell_instances_apart(read_dataset(cells), 0.25, centre_steps=3).targets == CENTRED
    rules = tuple(rule.model_copy(update={"seeds": "centres"}) for rule in build_usual_rules(CELLS.labels))
    check_rules(rules, CENTRED, where="rules")
    with pytest.raises(PredictionError, match=r"expected seeds of cell from cores, found centres.*--targets"):
        check_rules(rules, CELLS, where="rules")


def test_estimates_are_calibrated_on_objects_by_rules_that_were_learned_without_their_case() -> None:
    found = [build_found({0.5: [0.6], 0.3: [0.9, 0.9]}, [60, 55, 10 + index], 2) for index in range(6)]
    _, _, scored = choose_rules(found, CELLS, blocks=np.arange(6) % 3)
    assert [entry.f1 for entry in scored] == [(1.0,)] * 6  # 0.3, and no object below 100
    assert [entry.expected for entry in scored] == [(2,)] * 6
    assert scored[0].features == (None,)  # these made-up objects have no probabilities
    _, _, usual = choose_rules(found[:1], CELLS, blocks=np.zeros(1, np.int64))
    assert usual[0].f1 == pytest.approx((2 / 5,))
    numbers = draw_balls((1, 20, 40), {1: ((0, 9, 9), 6.0), 2: ((0, 9, 30), 4.0)})
    grid = build_picture_grid(numbers.shape)
    maps = answer_perfectly(numbers > 0, numbers, spacing_mm=grid.spacing_mm, targets=CELLS)
    perfect = match_case(maps, (numbers > 0).astype(np.int16), numbers, targets=CELLS, grid=grid)
    _, _, (entry,) = choose_rules([perfect], CELLS, blocks=np.zeros(1, np.int64))
    (features,) = entry.features
    sizes = np.bincount(numbers.ravel())[1:]
    assert (features.count, features.mean_probability, features.median_size) == (2, 1.0, sizes.mean())
