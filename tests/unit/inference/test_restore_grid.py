import subprocess
import sys

import numpy as np
import pytest
import torch
from builders.geometries import build_geometry
from builders.labels import build_labels
from builders.plans import RESAMPLING, build_configuration, build_plan
from builders.preprocessing import preprocess_training_case, resample_logits
from scipy.ndimage import zoom

from autoseg.geometry import Grid, compute_reorientation
from autoseg.inference.restoring.decoding import decode_labels
from autoseg.inference.restoring.restore_grid import (
    iterate_probabilities,
    iterate_with_logits_in_ram,
    restore_label_map,
    restore_probabilities,
    retry_with_logits_in_ram,
)
from autoseg.labels import LabelScheme
from autoseg.preprocessing.case import CaseGeometry
from autoseg.preprocessing.resample import find_separate_axis

REGIONS = build_labels({"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, region_write_values=(1, 2, 3))
PLAIN = build_labels({"a": (1,), "b": (2,)})


@pytest.fixture
def build_small_plan():
    configurations = {"3d_fullres": build_configuration((8, 8, 8))}
    return lambda **options: build_plan(configurations, **options)


def make_geometry(resampled=(6, 8, 7), target_spacing_mm=(2.0, 1.5, 1.5)):
    return build_geometry(
        (14, 17, 16),
        orientation="RAS",
        crop_box=((1, 13), (2, 14), (3, 14)),
        cropped_shape_voxels=(12, 12, 11),
        resampled_shape_voxels=resampled,
        target_spacing_mm=target_spacing_mm,
    )


def enlarge(logits, shape):
    factors = [new / old for new, old in zip(shape, logits.shape[1:], strict=True)]
    return np.stack(
        [zoom(channel.astype(np.float64), factors, order=1, mode="nearest", grid_mode=True) for channel in logits]
    )


def test_labels_are_those_of_logits_that_scipy_resampled():
    logits = torch.randn(3, 6, 8, 7)
    geometry = make_geometry()
    label_map = restore_label_map(logits, geometry, labels=PLAIN, resampling=RESAMPLING)
    assert label_map.shape == (14, 17, 16)
    expected = enlarge(logits.numpy(), (12, 12, 11))
    highest = np.sort(expected, axis=0)
    is_clear = highest[-1] - highest[-2] > 1e-5
    inside = label_map[1:13, 2:14, 3:14]
    assert is_clear.mean() > 0.99
    assert (inside == expected.argmax(axis=0))[is_clear].all()
    outside = label_map.copy()
    outside[1:13, 2:14, 3:14] = 0
    assert not outside.any()


@pytest.mark.parametrize("labels", [PLAIN, REGIONS])
def test_strips_change_no_voxel(labels):
    logits = torch.randn(3, 6, 8, 7)
    whole = restore_label_map(logits, make_geometry(), labels=labels, resampling=RESAMPLING)
    single = restore_label_map(logits, make_geometry(), labels=labels, resampling=RESAMPLING, chunk_bytes=1)
    np.testing.assert_array_equal(whole, single)


def test_a_far_coarser_axis_takes_the_nearest_slice():
    logits = torch.randn(3, 3, 12, 11)
    geometry = make_geometry(resampled=(3, 12, 11), target_spacing_mm=(4.0, 1.0, 1.0))
    label_map = restore_label_map(logits, geometry, labels=PLAIN, resampling=RESAMPLING)
    expected = np.repeat(logits.numpy().argmax(axis=0), 4, axis=0)
    np.testing.assert_array_equal(label_map[1:13, 2:14, 3:14], expected)


def test_order_zero_takes_the_nearest_voxel_along_every_axis():
    logits = torch.randn(3, 6, 6, 11)
    geometry = make_geometry(resampled=(6, 6, 11), target_spacing_mm=(2.0, 2.0, 1.0))
    plan = RESAMPLING.model_copy(update={"logits_order": 0})
    label_map = restore_label_map(logits, geometry, labels=PLAIN, resampling=plan)
    expected = logits.numpy().argmax(axis=0).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(label_map[1:13, 2:14, 3:14], expected)


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR", "IRP", "PSL"])
@pytest.mark.parametrize(
    ("orientation", "permutation"), [("RAS", (0, 1, 2)), ("RAS", (2, 0, 1)), ("LPI", (1, 0, 2)), (None, (1, 2, 0))]
)
def test_label_maps_come_back_bit_for_bit_through_every_change_of_axes(
    build_small_plan, code, orientation, permutation
):
    rng = np.random.default_rng(0)
    image = np.zeros((1, 9, 8, 7), np.float32)
    image[:, 2:8, 1:7, 3:] = rng.uniform(1, 2, (1, 6, 6, 4))
    reference = np.where(image[0] > 0, rng.integers(0, 3, (9, 8, 7)), 0).astype(np.int16)
    plain = Grid(shape_voxels=(9, 8, 7), spacing_mm=(1.0, 1.0, 1.0), origin_mm=(3.0, -4.0, 5.0))
    direction = compute_reorientation("RAS", code).apply_to_grid(plain).direction
    grid = Grid(shape_voxels=(9, 8, 7), spacing_mm=(1.0, 1.0, 1.0), direction=direction)
    plan = build_small_plan(orientation=orientation, axis_permutation=permutation)
    case = preprocess_training_case(image, reference, grid, plan, configuration="3d_fullres")
    assert case.label_map is not None
    assert case.label_map.size < reference.size
    logits = torch.nn.functional.one_hot(torch.from_numpy(case.label_map).clamp(min=0).long(), 3)
    logits = logits.movedim(-1, 0).float().contiguous()
    restored = restore_label_map(logits, case.geometry, labels=PLAIN, resampling=RESAMPLING)
    np.testing.assert_array_equal(restored, reference)
    probabilities = restore_probabilities(logits, case.geometry, labels=PLAIN, resampling=RESAMPLING)
    np.testing.assert_array_equal(probabilities.argmax(axis=0), reference)


def test_a_tie_goes_to_the_lowest_label():
    logits = torch.zeros(40, 41, 42, 3)
    logits[:20, ..., 0] = -1
    decided = decode_labels(logits, PLAIN)
    assert (decided[:20] == 1).all()
    assert (decided[20:] == 0).all()


def test_later_regions_overwrite_earlier_ones_above_one_half():
    logits = torch.tensor([[1.0, 1.0, -1.0, 0.0], [-1.0, 1.0, -1.0, 0.0], [-1.0, -1.0, 0.1, 0.0]]).T
    assert decode_labels(logits, REGIONS).flatten().tolist() == [1, 2, 3, 0]
    written = LabelScheme(**{**REGIONS.model_dump(), "region_write_values": (3, 2, 1)})
    assert decode_labels(logits, written).flatten().tolist() == [3, 2, 1, 0]


def test_probabilities_are_the_softmax_inside_the_crop_and_background_outside():
    logits = torch.randn(3, 6, 8, 7)
    probabilities = restore_probabilities(logits, make_geometry(), labels=PLAIN, resampling=RESAMPLING)
    exponentials = np.exp(enlarge(logits.numpy(), (12, 12, 11)))
    np.testing.assert_allclose(probabilities[:, 1:13, 2:14, 3:14], exponentials / exponentials.sum(axis=0), atol=1e-5)
    assert (probabilities[0, 0] == 1).all()
    assert (probabilities[1:, 0] == 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)


def test_probabilities_of_regions_are_sigmoids_inside_the_crop_and_zero_outside():
    logits = torch.randn(3, 6, 8, 7)
    probabilities = restore_probabilities(logits, make_geometry(), labels=REGIONS, resampling=RESAMPLING)
    expected = 1 / (1 + np.exp(-enlarge(logits.numpy(), (12, 12, 11))))
    np.testing.assert_allclose(probabilities[:, 1:13, 2:14, 3:14], expected, atol=1e-5)
    assert (probabilities[:, 0] == 0).all()


def draw_geometry(seed):
    """Any axis order and orientation, crop and resampling; a third of them with one far coarser axis."""
    rng = np.random.default_rng(seed)
    code = ("RAS", "LPS", "SAR", "IRP", "PSL")[seed % 5]
    shape, spacing = rng.integers(6, 15, 3), np.where(np.arange(3) == seed % 3, 4.0 if seed % 3 == 0 else 1.0, 1.0)
    plain = Grid(shape_voxels=tuple(map(int, shape)), spacing_mm=tuple(map(float, spacing)))
    grid = compute_reorientation("RAS", code).apply_to_grid(plain)
    geometry = CaseGeometry(
        grid=grid,
        orientation="RAS" if seed % 4 else None,
        axis_permutation=tuple(map(int, rng.permutation(3))),
        crop_box=((0, 1), (0, 1), (0, 1)),
        cropped_shape_voxels=(1, 1, 1),
        resampled_shape_voxels=tuple(map(int, rng.integers(2, 18, 3))),
        cropped_spacing_mm=(1.0, 1.0, 1.0),
        target_spacing_mm=(1.3, 0.9, 1.1),
    )
    box = []
    for extent in geometry.uncropped_shape_voxels:
        first = int(rng.integers(0, 3))
        box.append((first, int(rng.integers(first + 2, extent + 1))))
    cropped_spacing_mm = geometry.reorientation.apply_to_grid(grid).spacing_mm
    changes = {
        "crop_box": tuple(box),
        "cropped_shape_voxels": tuple(last - first for first, last in box),
        "cropped_spacing_mm": cropped_spacing_mm,
    }
    return geometry.model_copy(update=changes)


def restore_at_once(logits, geometry, outside):
    """The whole array at the finer resolution, by the code of preprocessing."""
    finer = resample_logits(
        logits.numpy(),
        shape=geometry.cropped_shape_voxels,
        spacing_mm=geometry.target_spacing_mm,
        target_spacing_mm=geometry.cropped_spacing_mm,
        plan=RESAMPLING,
    )
    volume = np.empty((len(logits), *geometry.uncropped_shape_voxels), np.float32)
    volume[:] = np.reshape(outside, (-1, 1, 1, 1))
    volume[:, *geometry.crop_slices] = finer
    return geometry.reorientation.inverse.apply(volume)


@pytest.mark.parametrize("seed", range(20))
def test_labels_and_probabilities_are_those_of_logits_restored_at_once(seed):
    geometry = draw_geometry(seed)
    logits = torch.randn(3, *geometry.resampled_shape_voxels, generator=torch.Generator().manual_seed(seed))
    expected = restore_at_once(logits, geometry, outside=(9.0, -9.0, -9.0))
    options = {"resampling": RESAMPLING}
    ranked = np.sort(expected, axis=0)
    is_clear = ranked[-1] - ranked[-2] > 1e-5
    assert is_clear.mean() > 0.99
    found = restore_label_map(logits, geometry, labels=PLAIN, **options)
    np.testing.assert_array_equal(found[is_clear], expected.argmax(axis=0)[is_clear])
    is_far = (np.abs(expected) > 1e-5).all(axis=0)
    found = restore_label_map(logits, geometry, labels=REGIONS, **options)
    inside = restore_at_once(logits, geometry, outside=(-9.0, -9.0, -9.0))
    by_rule = np.max([np.where(region > 0, label, 0) for label, region in enumerate(inside, start=1)], axis=0)
    np.testing.assert_array_equal(found[is_far], by_rule[is_far])
    probabilities = restore_probabilities(logits, geometry, labels=PLAIN, strip_bytes=200, **options)
    softmax = torch.softmax(torch.from_numpy(expected.copy()), dim=0).numpy()
    np.testing.assert_allclose(probabilities, softmax, atol=1e-5)


def test_the_drawn_geometries_cover_separate_axes_and_every_axis_order():
    drawn = [draw_geometry(seed) for seed in range(20)]
    separate = {find_separate_axis(g.target_spacing_mm, g.cropped_spacing_mm, 3.0) for g in drawn}
    assert None in separate
    assert len(separate) > 1
    assert len({g.reorientation.permutation for g in drawn}) == 6


@pytest.mark.parametrize("labels", [PLAIN, REGIONS])
def test_slices_of_probabilities_cover_the_file_once(labels):
    geometry = draw_geometry(7)
    logits = torch.randn(3, *geometry.resampled_shape_voxels)
    covered = np.zeros(geometry.grid.shape_voxels, int)
    for place, slab in iterate_probabilities(logits, geometry, labels=labels, resampling=RESAMPLING):
        assert slab.shape[1:] == covered[place].shape
        assert 1 in slab.shape[1:]
        covered[place] += 1
    assert (covered == 1).all()


RESTORING_OF_MANY_CLASSES = """
import resource
import torch
from autoseg.geometry import Grid
from autoseg.inference.restoring.restore_grid import restore_label_map
from autoseg.labels import LabelClass, LabelScheme
from autoseg.plan import ResamplingPlan
from autoseg.preprocessing.case import CaseGeometry

shape, small = (160, 256, 256), (40, 64, 64)
classes = tuple(LabelClass(name=str(value), values=(value,)) for value in range(1, 60))
labels = LabelScheme(classes=classes, ignore_value=None, region_write_values=None, declared_count=60)
geometry = CaseGeometry(
    grid=Grid(shape_voxels=shape, spacing_mm=(1.0, 1.0, 1.0)), orientation="RAS", axis_permutation=(0, 1, 2),
    crop_box=tuple((0, extent) for extent in shape), cropped_shape_voxels=shape, resampled_shape_voxels=small,
    cropped_spacing_mm=(1.0, 1.0, 1.0), target_spacing_mm=(4.0, 4.0, 4.0),
)
resampling = ResamplingPlan(image_order=3, label_order=1, logits_order=1, anisotropy_threshold=3)
logits = torch.zeros(60, *small)
for label in range(60):
    logits[label, :, label : label + 4] = 1.0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
label_map = restore_label_map(logits, geometry, labels=labels, resampling=resampling)
print(len(set(label_map[80, :, 0].tolist())), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of memory in KiB")
def test_restoring_takes_far_less_memory_than_all_classes_in_full_resolution():
    done = subprocess.run([sys.executable, "-c", RESTORING_OF_MANY_CLASSES], capture_output=True, text=True, check=True)
    labels, peak_mib = map(int, done.stdout.split())
    in_full_mib = 60 * 160 * 256 * 256 * 4 // 2**20
    assert labels == 60
    assert peak_mib < in_full_mib / 20


class Distant(torch.Tensor):
    """A tensor on a device whose memory is full."""

    device = torch.device("cuda")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def restore_somewhere(parts):
    if any(isinstance(part, Distant) for part in parts):
        raise torch.OutOfMemoryError
    return torch.stack(list(parts)).sum().item()


def test_a_full_device_is_announced_and_the_grid_is_restored_in_ram(caplog):
    logits = [torch.ones(3, 2, 2, 2).as_subclass(Distant), torch.ones(3, 2, 2, 2)]
    assert retry_with_logits_in_ram(restore_somewhere, logits) == 48
    assert "ran out of memory; restoring the grid of the image on the CPU" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("shapes do not match")])
def test_errors_that_more_memory_would_not_help_are_not_hidden(error):
    def fail(parts):
        raise error

    with pytest.raises(type(error)):
        retry_with_logits_in_ram(fail, [torch.ones(3, 2, 2, 2)])


def iterate_somewhere(parts):
    for number in range(4):
        if number == 2 and any(isinstance(part, Distant) for part in parts):
            raise torch.OutOfMemoryError
        yield number


def test_a_device_that_is_full_after_some_slices_yields_each_slice_once(caplog):
    logits = [torch.ones(3, 2, 2, 2).as_subclass(Distant)]
    assert list(iterate_with_logits_in_ram(iterate_somewhere, logits)) == [0, 1, 2, 3]
    assert "ran out of memory; restoring the grid of the image on the CPU" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("shapes do not match")])
def test_errors_between_slices_that_more_memory_would_not_help_are_not_hidden(error):
    def fail(parts):
        yield parts
        raise error

    slices = iterate_with_logits_in_ram(fail, [torch.ones(3, 2, 2, 2)])
    next(slices)
    with pytest.raises(type(error)):
        next(slices)
