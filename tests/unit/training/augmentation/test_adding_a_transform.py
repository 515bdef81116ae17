"""A transform of this file's own, added by one row in each table."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch

from autoseg.document import parse_part
from autoseg.errors import DocumentError
from autoseg.plan import TRANSFORM_PLANS, ConfigurationPlan, TransformPlan
from autoseg.plan.values import Fraction
from autoseg.training.augmentation.transform import DeviceTransform, Patches, Sample, SampleDraws, Transform
from autoseg.training.augmentation.transforms import TRANSFORMS
from autoseg.training.data import batch_making
from autoseg.training.data.batches import BatchSource, build_batch_source
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source
from autoseg.training.data.randomness import BatchKey

CPU = torch.device("cpu")
KEYS = [BatchKey(stream="training", epoch=0, iteration=number) for number in range(6)]


class OffsetPlan(TransformPlan):
    """Adds a number to all channels."""

    name: Literal["offset"] = "offset"
    probability: Fraction
    offset: float


@dataclass(frozen=True, kw_only=True)
class Offset(DeviceTransform[np.ndarray]):
    """Carries out "offset"."""

    plan: OffsetPlan

    def change_sample(self, sample: Sample) -> None:
        if np.random.uniform() < self.plan.probability:
            sample.image += np.float32(self.plan.offset)

    def draw(self, draws: SampleDraws) -> np.ndarray:
        return np.asarray([generator.random() < self.plan.probability for generator in draws.generators])

    def change_patches(self, patches: Patches, parameters: np.ndarray) -> Patches:
        patches.image[torch.from_numpy(parameters).to(patches.image.device)] += self.plan.offset
        return patches


@dataclass(frozen=True, kw_only=True)
class OffsetInWorkersAlone(Transform):
    """Carries out "offset" without a form for devices."""

    plan: OffsetPlan

    def change_sample(self, sample: Sample) -> None:
        sample.image += np.float32(self.plan.offset)


@pytest.fixture
def configuration(plan_configuration, monkeypatch):
    """Reads the plan of a configuration that lists the transform."""
    monkeypatch.setitem(TRANSFORM_PLANS, "offset", OffsetPlan)
    monkeypatch.setitem(TRANSFORMS, "offset", Offset)

    def make(**values):
        content = plan_configuration(transforms=()).model_dump(mode="json")
        content["training"]["transforms"] = [{"name": "offset", "probability": 0.5, "offset": 3.0} | values]
        return parse_part(content, ConfigurationPlan, where="plan.json")

    return make


def test_its_part_of_a_plan_is_checked_and_written_as_it_is_read(configuration):
    plan = configuration()
    assert plan.training.transforms == (OffsetPlan(probability=0.5, offset=3.0),)
    assert '{"name":"offset","probability":0.5,"offset":3.0}' in plan.model_dump_json()
    with pytest.raises(DocumentError, match=r"training\.transforms\.0\.probability: .*less than or equal to 1"):
        configuration(probability=2)


@pytest.mark.parametrize("form", ["worker", "device"])
def test_both_of_its_forms_change_some_samples_of_a_batch(
    configuration, plan_configuration, channels, *, data_folder, fold, device, form
):
    def build(plan):
        source = build_batch_source(plan, channels, data_folder=data_folder, fold=fold, seed=0)
        if form == "worker":
            return source
        placement = DataPlacement(where="host", because="the test says so")
        return build_device_batch_source(source, plan, channels, device=device, placement=placement)

    changed, plain = build(configuration()), build(plan_configuration(transforms=()))
    found = []
    for key in KEYS:
        offsets = (changed.make_batch(key).image - plain.make_batch(key).image).flatten(1)
        assert (offsets.amax(1) - offsets.amin(1)).max() < 1e-5
        found += offsets.mean(1).round().int().tolist()
    assert set(found) == {0, 3}


def test_without_a_form_for_devices_worker_processes_make_the_batches_and_this_is_said(
    configuration, channels, data_folder, fold, *, monkeypatch
):
    monkeypatch.setitem(TRANSFORMS, "offset", OffsetInWorkersAlone)
    told = []
    source = batch_making.build_source(
        configuration(),
        channels,
        data_folder=data_folder,
        fold=fold,
        seed=0,
        device=torch.device("cuda", 1),
        announce=told.append,
    )
    assert isinstance(source, BatchSource)
    assert told == [
        "patches are made by worker processes, not on cuda:1: offset of the plan's transforms cannot run there"
    ]
    made = list(batch_making.make_batches(source, KEYS[:2], workers=0, device=CPU))
    assert torch.equal(made[1].image, source.make_batch(KEYS[1]).image)
