from pathlib import Path

import numpy as np
import pytest
from builders.geometries import build_geometry
from builders.plans import build_preprocessing_plan
from builders.preprocessing import preprocess_image, preprocess_training_case

from autoseg.document import read_document, write_document
from autoseg.errors import PlanError
from autoseg.geometry import Grid
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.pipeline import (
    check_resampled_shape,
    compute_resampling_task,
    prepare_case,
    preprocess_prepared_case,
)
from autoseg.preprocessing.resample import resample_image, resample_label_map

SHAPE = (8, 10, 12)
GRID = Grid(shape_voxels=SHAPE, spacing_mm=(2.0, 1.0, 0.5))  # axes RAS
UNCHANGED = {"3d_fullres": (2.0, 1.0, 0.5)}


def make_image(channels: int = 1) -> np.ndarray:
    """Zero but for a box in the middle."""
    image = np.zeros((channels, *SHAPE), dtype=np.float32)
    image[:, 1:7, 2:9, 3:11] = np.random.default_rng(0).normal(100, 20, (channels, 6, 7, 8))
    return image


def make_labels() -> np.ndarray:
    label_map = np.zeros(SHAPE, dtype=np.int16)
    label_map[2:5, 4:7, 5:8] = 1
    label_map[5, 5, 5] = 2
    return label_map


def test_the_image_is_cropped_and_normalized() -> None:
    image = make_image()

    case = preprocess_image(image, GRID, build_preprocessing_plan(spacings_mm=UNCHANGED), "3d_fullres")

    cropped = image[:, 1:7, 2:9, 3:11]
    np.testing.assert_allclose(case.image, (cropped - cropped.mean()) / cropped.std(), rtol=1e-5, atol=1e-5)
    assert case.label_map is None
    assert case.geometry.crop_box == ((1, 7), (2, 9), (3, 11))
    assert case.geometry.cropped_shape_voxels == case.geometry.resampled_shape_voxels == (6, 7, 8)
    assert case.geometry.intensity_scales == pytest.approx((cropped.std(),), rel=1e-5)
    assert case.image.flags.c_contiguous


def test_axes_are_oriented_then_permuted_then_cropped() -> None:
    image, label_map = make_image(), make_labels()
    plan = build_preprocessing_plan(
        spacings_mm={"3d_fullres": (0.5, 2.0, 1.0)}, orientation="LAS", axis_permutation=(2, 0, 1), schemes=("none",)
    )

    case = preprocess_training_case(image, label_map, GRID, plan, configuration="3d_fullres")

    turned = image[:, :, :, ::-1].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(case.image, turned[:, 1:9, 1:7, 2:9])
    assert case.label_map is not None
    np.testing.assert_array_equal(case.label_map, label_map[:, :, ::-1].transpose(2, 0, 1)[1:9, 1:7, 2:9])
    assert case.geometry.crop_box == ((1, 9), (1, 7), (2, 9))
    assert case.geometry.cropped_spacing_mm == (0.5, 2.0, 1.0)
    assert case.geometry.uncropped_shape_voxels == (12, 8, 10)


def test_the_geometry_leads_back_to_the_file() -> None:
    image = make_image()
    axes = {"orientation": "PIL", "axis_permutation": (0, 2, 1), "schemes": ("none",)}
    spacing_mm = prepare_case(image, None, GRID, build_preprocessing_plan(spacings_mm=UNCHANGED, **axes)).spacing_mm
    plan = build_preprocessing_plan(spacings_mm={"3d_fullres": spacing_mm}, **axes)

    case = preprocess_image(image, GRID, plan, "3d_fullres")

    geometry = case.geometry
    assert geometry.reorientation.permutation != (0, 1, 2)
    volume = np.zeros(geometry.uncropped_shape_voxels, dtype=np.float32)
    volume[geometry.crop_slices] = case.image[0]
    np.testing.assert_array_equal(geometry.reorientation.inverse.apply(volume), image[0])


def test_pictures_without_a_world_are_not_reoriented() -> None:
    grid = Grid(shape_voxels=SHAPE, spacing_mm=(1.0, 1.0, 1.0), is_oriented=False)
    plan = build_preprocessing_plan(spacings_mm={"3d_fullres": (1.0, 1.0, 1.0)}, orientation="LPI", schemes=("none",))

    case = preprocess_image(make_image(), grid, plan, "3d_fullres")

    np.testing.assert_array_equal(case.image, make_image()[:, 1:7, 2:9, 3:11])


def test_image_and_labels_are_brought_to_the_planned_spacing() -> None:
    plan = build_preprocessing_plan(spacings_mm={"3d_fullres": (1.5, 1.5, 1.5)}, schemes=("none",))
    resampling = plan.configurations["3d_fullres"].resampling
    spacings = {"spacing_mm": (2.0, 1.0, 0.5), "target_spacing_mm": (1.5, 1.5, 1.5), "plan": resampling}

    case = preprocess_training_case(make_image(), make_labels(), GRID, plan, configuration="3d_fullres")

    assert case.geometry.resampled_shape_voxels == (8, 5, 3)
    assert case.geometry.target_spacing_mm == (1.5, 1.5, 1.5)
    expected = resample_image(np.ascontiguousarray(make_image()[:, 1:7, 2:9, 3:11]), shape=(8, 5, 3), **spacings)
    np.testing.assert_array_equal(case.image, expected)
    labels = resample_label_map(np.ascontiguousarray(make_labels()[1:7, 2:9, 3:11]), shape=(8, 5, 3), **spacings)
    assert not (labels == 2).any()
    labels[6, 2, 0] = 2  # interpolation leaves nothing of a class of one voxel
    assert case.label_map is not None
    np.testing.assert_array_equal(case.label_map, labels)


def test_a_2d_configuration_keeps_the_slices_of_the_case() -> None:
    plan = build_preprocessing_plan(spacings_mm={"2d": (2.0, 1.0)})

    case = preprocess_image(make_image(), GRID, plan, "2d")

    assert case.geometry.target_spacing_mm == (2.0, 2.0, 1.0)
    assert case.image.shape == (1, 6, 4, 4)


def test_background_outside_the_nonzero_region_is_marked_and_foreground_is_kept() -> None:
    image, label_map = make_image(), make_labels()
    image[0, 1:3, 2:4] = 0  # a notch in the box
    label_map[1, 2, 4] = 2  # annotated although the image is zero there

    case = preprocess_training_case(
        image, label_map, GRID, build_preprocessing_plan(spacings_mm=UNCHANGED), configuration="3d_fullres"
    )

    expected = label_map.copy()
    expected[(label_map == 0) & (image[0] == 0)] = -1
    assert case.label_map is not None
    np.testing.assert_array_equal(case.label_map, expected[1:7, 2:9, 3:11])


def test_masked_statistics_include_annotated_voxels_in_training_only() -> None:
    image, label_map = make_image(), make_labels()
    image[0, 1:3, 2:4] = 0
    label_map[1, 2, 4] = 2
    plan = build_preprocessing_plan(spacings_mm=UNCHANGED, inside_nonzero_only=True)
    nonzero = image[0] != 0

    trained = preprocess_training_case(image, label_map, GRID, plan, configuration="3d_fullres")
    predicted = preprocess_image(image, GRID, plan, "3d_fullres")

    inside = image[0][nonzero]
    crop = (slice(1, 7), slice(2, 9), slice(3, 11))
    np.testing.assert_allclose(
        predicted.image[0][nonzero[crop]], (inside - inside.mean()) / inside.std(), rtol=1e-4, atol=1e-5
    )
    assert predicted.image[0, 0, 0, 1] == 0
    annotated = np.append(inside, 0)
    assert trained.image[0, 0, 0, 1] == pytest.approx(-annotated.mean() / annotated.std(), rel=1e-4)


def test_an_image_of_zeros_is_kept_whole() -> None:
    image = np.zeros((1, *SHAPE), dtype=np.float32)
    plan = build_preprocessing_plan(spacings_mm=UNCHANGED, inside_nonzero_only=True)

    case = preprocess_training_case(image, np.zeros(SHAPE, dtype=np.int16), GRID, plan, configuration="3d_fullres")

    assert case.image.shape == (1, *SHAPE)
    assert not case.image.any()
    assert case.label_map is not None
    assert (case.label_map == -1).all()


def test_configurations_share_one_prepared_case() -> None:
    plan = build_preprocessing_plan(spacings_mm={"3d_fullres": (1.5, 1.5, 1.5), "2d": (2.0, 1.0)})
    prepared = prepare_case(make_image(), make_labels(), GRID, plan)

    for name in ("3d_fullres", "2d"):
        shared = preprocess_prepared_case(prepared, plan, name)
        alone = preprocess_training_case(make_image(), make_labels(), GRID, plan, configuration=name)
        np.testing.assert_array_equal(shared.image, alone.image)
        np.testing.assert_array_equal(shared.label_map, alone.label_map)
        assert shared.geometry == alone.geometry


def test_configurations_with_equal_tasks_have_equal_arrays_and_others_have_not() -> None:
    plan = build_preprocessing_plan(
        spacings_mm={"2d": (0.8, 0.8), "3d_fullres": (2.1, 0.8, 0.8), "3d_lowres": (3.0, 0.8, 0.8)}
    )
    prepared = prepare_case(make_image(), make_labels(), GRID, plan)
    tasks = {name: compute_resampling_task(prepared, plan, name) for name in plan.configurations}

    flat = preprocess_prepared_case(prepared, plan, "2d")
    deep = preprocess_prepared_case(prepared, plan, "3d_fullres")
    taken_over = preprocess_prepared_case(prepared, plan, "3d_fullres", like=flat)

    assert tasks["2d"] == tasks["3d_fullres"] != tasks["3d_lowres"]
    np.testing.assert_array_equal(flat.image, deep.image)
    np.testing.assert_array_equal(flat.label_map, deep.label_map)
    assert taken_over.image is flat.image
    assert taken_over.geometry == deep.geometry != flat.geometry


def test_arrays_of_the_file_are_not_written_to() -> None:
    image, label_map = make_image(), make_labels()
    image[0, 1:3, 2:4] = 0
    image.setflags(write=False)
    label_map.setflags(write=False)
    plan = build_preprocessing_plan(spacings_mm=UNCHANGED, inside_nonzero_only=True)

    case = preprocess_training_case(image, label_map, GRID, plan, configuration="3d_fullres")

    assert case.label_map is not None
    assert not np.shares_memory(case.label_map, label_map)


def test_a_wrong_number_of_channels_is_an_error() -> None:
    with pytest.raises(PlanError, match="expected 1 image channels"):
        preprocess_image(make_image(2), GRID, build_preprocessing_plan(spacings_mm=UNCHANGED), "3d_fullres")


def test_the_geometry_survives_being_written(tmp_path: Path) -> None:
    plan = build_preprocessing_plan(
        spacings_mm={"3d_fullres": (0.5, 2.0, 1.0)}, orientation="LAS", axis_permutation=(2, 0, 1)
    )
    geometry = preprocess_image(make_image(), GRID, plan, "3d_fullres").geometry
    path = tmp_path / "geometry.json"

    write_document(path, geometry)

    assert read_document(path, CaseGeometry) == geometry


METRES = Grid(shape_voxels=SHAPE, spacing_mm=(2000.0, 1000.0, 500.0))
MICROMETRES = Grid(shape_voxels=SHAPE, spacing_mm=(0.002, 0.001, 0.0005))


@pytest.mark.parametrize("grid", [METRES, MICROMETRES])
def test_a_spacing_in_another_unit_is_an_error_with_the_numbers_before_anything_is_resampled(grid: Grid) -> None:
    plan = build_preprocessing_plan(spacings_mm=UNCHANGED)
    effect = {
        METRES: r"2000 x 1000 x 500 mm .* 6000 x 7000 x 8000 voxels, which takes 4,032\.0 GB of memory, and this",
        MICROMETRES: r"0\.002 x 0\.001 x 0\.0005 mm .* 1 x 1 x 1 voxels, which leaves nothing of it",
    }[grid]
    with pytest.raises(PlanError, match=f"the image of 6 x 7 x 8 voxels at {effect}.*correct the header"):
        preprocess_training_case(make_image(), make_labels(), grid, plan, configuration="3d_fullres")


def test_the_memory_of_all_channels_counts() -> None:
    plan = build_preprocessing_plan(spacings_mm={"3d_fullres": (1, 1, 1), "2d": (1, 1)})
    geometry = build_geometry((10, 10, 10))
    for configuration in plan.configurations.values():
        check_resampled_shape(geometry, configuration, channels=3, available_bytes=20_000)
        with pytest.raises(PlanError, match=r"takes 0\.0 GB of memory"):
            check_resampled_shape(geometry, configuration, channels=3, available_bytes=19_999)


def test_one_pixel_in_each_slice_is_nothing_but_small_images_may_stay_small() -> None:
    plan = build_preprocessing_plan(spacings_mm={"3d_fullres": (1, 1, 1), "2d": (1, 1)})
    slices = build_geometry((9, 1, 1), cropped_shape_voxels=(9, 24, 24))
    check_resampled_shape(slices, plan.configurations["3d_fullres"], channels=1)
    with pytest.raises(PlanError, match="leaves nothing"):
        check_resampled_shape(slices, plan.configurations["2d"], channels=1)
    for shape in ((1, 1, 1), (2, 2, 2)):
        tiny = build_geometry((1, 1, 1), cropped_shape_voxels=shape)
        check_resampled_shape(tiny, plan.configurations["3d_fullres"], channels=1)
