"""The operations that a batch costs a device, counted on the CPU, which has no more to do than a GPU has."""

import numpy as np
import pytest
import torch
from builders.geometries import build_geometry
from builders.operations import record_operations
from builders.plans import build_configuration

from autoseg.dataset.folds import Fold
from autoseg.plan.reference import build_reference_transforms
from autoseg.preprocessing.cache import write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import ClassLocations
from autoseg.training.augmentation.tensors import resampling
from autoseg.training.data.batches import build_batch_source
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source
from autoseg.training.data.randomness import BatchKey

LIMIT = 150
COPIES = 1  # of all parameters to the device, which a CPU has not
# They wait for the device, or give tensors whose shape only the device knows.
WAITING = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique", "aten.item", "aten.equal"}
NAMES = ("first", "second")


@pytest.fixture
def build(tmp_path, channels):
    """Prepares batches of the reference's transforms, from two cases that are smaller than some cuts."""

    def make(patch, batch_size, **changes):
        write_cases(tmp_path)
        transforms = build_reference_transforms(patch, mirror_axes=tuple(range(len(patch))))
        training = {"batch_size": batch_size, "transforms": transforms}
        plan = build_configuration(patch, training=training, **changes)
        source = build_batch_source(
            plan, channels, data_folder=tmp_path, fold=Fold(training=NAMES, validation=NAMES), seed=0
        )
        placement = DataPlacement(where="device", because="the test says so")
        return build_device_batch_source(source, plan, channels, device=torch.device("cpu"), placement=placement)

    return make


def write_cases(folder):
    generator = np.random.default_rng(0)
    for name, shape in zip(NAMES, ((36, 50, 35), (48, 60, 45)), strict=True):
        label_map = np.zeros(shape, dtype=np.int16)
        label_map[10:20, 20:30, 10:20] = 1
        image = generator.normal(size=(1, *shape)).astype(np.float32)
        case = PreprocessedCase(image=image, label_map=label_map, geometry=build_geometry(shape))
        places = np.argwhere(label_map == 1).astype(np.int32)
        locations = ClassLocations(coordinates=places, class_ranges=((0, len(places)),), annotated_range=None)
        write_case(folder, name, case, locations=locations, patch_voxels=(16, 16, 16))


def record_batches(source, batches):
    """Records the operations of some batches, without the copy to the device."""
    keys = [BatchKey(stream="training", epoch=0, iteration=number) for number in range(batches)]
    return [record_operations(lambda key=key: source.make_batch(key)) for key in keys]


@pytest.mark.parametrize(
    "patches",
    [
        # Hippocampus, 3d_fullres; smaller patches in batches of other sizes.
        {7: (40, 56, 40), 2: (12, 16, 12), 9: (12, 16, 12)},
        {9: (56, 40), 2: (24, 24), 49: (24, 24)},
    ],
)
def test_a_batch_costs_few_operations_whatever_its_size_and_none_waits(build, patches):
    for batch_size, patch in patches.items():
        for record in record_batches(build(patch, batch_size), 3):
            names = [name for name, _ in record]
            assert len(names) + COPIES <= LIMIT
            assert WAITING.isdisjoint(names)


def test_large_patches_that_save_memory_cost_few_operations_too(build, monkeypatch):
    monkeypatch.setattr(resampling, "COMPARISON_BYTES", 0)
    counts = {len(record) + COPIES for record in record_batches(build((12, 16, 12), 9), 3)}
    assert counts == {147}
    assert max(counts) <= LIMIT


def test_operations_and_their_shapes_depend_on_the_number_of_warped_patches_alone(build):
    records = record_batches(build((12, 12), 3), 16)
    by_warped = {}
    for record in records:
        shapes = next((shapes for name, shapes in record if name == "aten.grid_sampler_2d"), ((0,),))
        by_warped.setdefault(shapes[0][0], []).append(record)
    assert set(by_warped) >= {0, 1, 2}
    assert all(record == alike[0] for alike in by_warped.values() for record in alike)
    assert max(map(len, by_warped.values())) > 2
