"""Labels of the highest expected Dice, against every possible labelling of a few voxels."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from builders.folds import write_trained_fold
from builders.geometries import build_geometry
from builders.labels import build_labels, build_plain_labels
from builders.plans import RESAMPLING, build_configuration, build_plan

from autoseg.geometry import Grid
from autoseg.inference.ensemble import Ensemble, MemberChoice, load_ensemble
from autoseg.inference.options import PredictionOptions
from autoseg.inference.restoring.decoding import decode_probabilities
from autoseg.inference.restoring.dice_decoding import find_dice_rule, restore_dice_label_map
from autoseg.inference.restoring.restore_grid import (
    iterate_mean_probabilities,
    restore_label_map,
    restore_probabilities,
)
from autoseg.labels import LabelScheme

ONE_REGION = build_labels({"a": (1,)}, region_write_values=(1,))
REGIONS = build_labels({"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, region_write_values=(1, 2, 3))
PLAIN, WITH_IGNORE = build_plain_labels(2), build_plain_labels(2, with_ignore=True)
GEOMETRY = build_geometry(
    (14, 17, 16),
    orientation="RAS",
    crop_box=((1, 13), (2, 14), (3, 14)),
    cropped_shape_voxels=(12, 12, 11),
    resampled_shape_voxels=(6, 8, 7),
    target_spacing_mm=(2.0, 1.5, 1.5),
)


def decode(probabilities: np.ndarray, labels: LabelScheme) -> np.ndarray:
    values = torch.from_numpy(np.asarray(probabilities, np.float32))
    return find_dice_rule([values], labels).decode(values, labels).numpy()


def draw_probabilities(count: int, voxels: int = 8) -> Iterator[np.ndarray]:
    random = np.random.default_rng(0)
    for _ in range(count):
        values = random.beta(*random.choice([0.3, 1.0, 2.0], 2), size=voxels)
        if values.max() > 0.5:
            yield values


def compute_approximation(probabilities: np.ndarray, chosen: np.ndarray) -> float:
    return float(2 * probabilities[chosen].sum() / (chosen.sum() + probabilities.sum() + 1))


def compute_expected_dice(probabilities: np.ndarray, chosen: np.ndarray) -> float:
    """Over all references, each with its probability."""
    references = np.array(list(product((False, True), repeat=len(probabilities))))
    chances = np.where(references, probabilities, 1 - probabilities).prod(axis=1)
    sizes = references.sum(axis=1) + chosen.sum()
    dice = 2 * (references & chosen).sum(axis=1) / np.maximum(sizes, 1)
    return float((chances * dice).sum())


def test_no_set_of_voxels_has_a_higher_approximate_dice() -> None:
    everything = [np.array(chosen) for chosen in product((False, True), repeat=8)]
    for values in draw_probabilities(40):
        best = max(compute_approximation(values, chosen) for chosen in everything)
        found = decode(values[:, None], ONE_REGION) > 0
        assert compute_approximation(values, found) == pytest.approx(best, abs=1e-5)


def test_the_expected_dice_of_few_voxels_is_nearly_the_highest() -> None:
    everything = [np.array(chosen) for chosen in product((False, True), repeat=8)]
    gaps, of_halves = [], []
    for values in draw_probabilities(8):
        best = max(compute_expected_dice(values, chosen) for chosen in everything)
        gaps.append(best - compute_expected_dice(values, decode(values[:, None], ONE_REGION) > 0))
        of_halves.append(best - compute_expected_dice(values, values > 0.5))
    assert max(gaps) < 0.02
    assert np.mean(gaps) < 0.2 * np.mean(of_halves)


def test_classes_that_exclude_each_other_share_the_voxels_nearly_as_well_as_possible() -> None:
    random, gaps, of_argmax = np.random.default_rng(0), [], []
    labellings = np.array(list(product(range(3), repeat=6)))
    for _ in range(40):
        values = torch.softmax(torch.from_numpy(random.normal(size=(6, 3)) * random.choice([1, 2, 3])), -1).numpy()
        usual = values.argmax(axis=1)
        if not {1, 2} <= set(usual):
            continue

        def score(labelling: np.ndarray, values: np.ndarray = values) -> float:
            return sum(compute_approximation(values[:, label], labelling == label) for label in (1, 2))

        best = max(map(score, labellings))
        gaps.append(best - score(decode(values, PLAIN)))
        of_argmax.append(best - score(usual))
    assert len(gaps) > 15
    assert np.mean(gaps) < 0.05 * np.mean(of_argmax)


def test_an_unsure_class_is_larger_than_by_argmax_and_a_sure_one_is_not() -> None:
    unsure = np.full(20, 0.4)
    unsure[0] = 0.55
    assert (decode(unsure[:, None], ONE_REGION) > 0).all()
    sure = np.array([1.0] * 30 + [0.4] * 5)
    assert (decode(sure[:, None], ONE_REGION) > 0).sum() == 30


@pytest.mark.parametrize("labels", [PLAIN, ONE_REGION])
def test_a_class_that_argmax_finds_nowhere_stays_absent(labels: LabelScheme) -> None:
    classes = labels.output_channel_count
    values = np.full((50, classes), 0.45)
    if classes == 3:
        values[:] = (0.5, 0.48, 0.02)
    assert not decode(values, labels).any()


def test_regions_are_written_in_the_order_of_declaration() -> None:
    values = np.array([[0.9, 0.1, 0.1], [0.9, 0.9, 0.2], [0.9, 0.9, 0.9], [0.1, 0.1, 0.1]])
    assert decode(values, REGIONS).tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("labels", [PLAIN, WITH_IGNORE, REGIONS])
@pytest.mark.parametrize("strip_bytes", [1, 2000, None])
def test_a_volume_in_strips_is_decoded_as_a_whole_and_nothing_lies_outside_of_the_crop(
    labels: LabelScheme, strip_bytes: int | None
) -> None:
    logits = torch.randn(3, 6, 8, 7, generator=torch.Generator().manual_seed(0))
    found = restore_dice_label_map([logits], [GEOMETRY], [RESAMPLING], labels=labels, strip_bytes=strip_bytes)
    probabilities = restore_probabilities(logits, GEOMETRY, labels=labels, resampling=RESAMPLING)
    inside = probabilities[:, 1:13, 2:14, 3:14]
    expected = decode(np.moveaxis(inside, 0, -1), labels)
    np.testing.assert_array_equal(found[1:13, 2:14, 3:14], expected)
    outside = found.copy()
    outside[1:13, 2:14, 3:14] = 0
    assert not outside.any()
    usual = restore_label_map(logits, GEOMETRY, labels=labels, resampling=RESAMPLING)
    assert (found != usual).any()


@pytest.mark.parametrize("strip_bytes", [1, 2000, 5000])
def test_no_more_probabilities_than_a_strip_exist_at_a_time(strip_bytes: int) -> None:
    logits = torch.randn(3, 6, 8, 7, generator=torch.Generator().manual_seed(0))
    row_bytes = 11 * 3 * 4
    sizes = [
        part.numel() * 4
        for _, _, part in iterate_mean_probabilities(
            [logits], [GEOMETRY], [RESAMPLING], labels=PLAIN, strip_bytes=strip_bytes
        )
    ]
    assert sum(sizes) == 12 * 12 * row_bytes
    assert max(sizes) <= max(strip_bytes, row_bytes)


def test_a_slice_is_decoded_like_a_volume() -> None:
    logits = torch.randn(3, 1, 8, 7, generator=torch.Generator().manual_seed(0))
    geometry = build_geometry((1, 8, 7))
    found = restore_dice_label_map([logits], [geometry], [RESAMPLING], labels=PLAIN)
    values = torch.softmax(logits.movedim(0, -1), dim=-1)
    np.testing.assert_array_equal(found, decode(values.numpy(), PLAIN))


def test_an_ensemble_decodes_the_mean_of_the_probabilities() -> None:
    logits = [torch.randn(3, 6, 8, 7, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    found = restore_dice_label_map(logits, [GEOMETRY] * 2, [RESAMPLING] * 2, labels=PLAIN)
    parts = [restore_probabilities(part, GEOMETRY, labels=PLAIN, resampling=RESAMPLING) for part in logits]
    mean = np.moveaxis((parts[0] + parts[1]) / 2, 0, -1)[1:13, 2:14, 3:14]
    np.testing.assert_array_equal(found[1:13, 2:14, 3:14], decode(mean, PLAIN))


@pytest.mark.parametrize("names", [("3d_fullres",), ("3d_fullres", "3d_lowres")])
def test_the_option_reaches_models_and_ensembles_and_argmax_is_the_default(tmp_path, names) -> None:
    configurations = {
        "3d_fullres": build_configuration((8, 8, 8)),
        "3d_lowres": build_configuration((8, 8, 8), spacing_mm=(2.0, 2.0, 2.0)),
    }
    plan, grid = build_plan(configurations), Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.5, 1.0))
    for name in names:
        write_trained_fold(tmp_path / "run", plan, name, fold="0")
    choices = [MemberChoice(configuration=name, folds=None) for name in names]
    ensemble: Ensemble = load_ensemble(tmp_path / "run", choices, device="cpu", precision="float32")
    image = np.random.default_rng(0).normal(size=(1, *grid.shape_voxels)).astype(np.float32)
    usual, options = ensemble.predict_volume(image, grid), PredictionOptions(decoding="dice")
    found = ensemble.predict_volume(image, grid, options=options)
    assert (found != usual).any()
    cases = ensemble.preprocess(image, grid)
    logits, geometries = ensemble.predict_case(cases), [case.geometry for case in cases]
    slices = ensemble.iterate_probabilities(logits, geometries)
    values = np.concatenate([part for _, part in sorted(slices, key=lambda entry: entry[0][0].start)], axis=1)
    mean = np.moveaxis(values, 0, -1)
    np.testing.assert_array_equal(found, plan.labels.decode(decode(mean, plan.labels)))
    plain = decode_probabilities(torch.from_numpy(np.ascontiguousarray(mean)), plan.labels).numpy()
    assert (usual != plan.labels.decode(plain)).mean() < 0.01
    assert len(names) > 1 or (ensemble.members[0].predict_volume(image, grid, options=options) == found).all()
