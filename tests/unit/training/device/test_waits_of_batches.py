"""Batches that a simulated GPU makes: no operation waits for it, or mixes its tensors with others."""

import pytest
from builders.plans import TRANSFORMS, build_transforms
from builders.simulated_cuda import DEVICE, simulate_cuda

from autoseg.training.data.batches import build_batch_source
from autoseg.training.data.data_placement import DataPlacement
from autoseg.training.data.device_batches import build_device_batch_source
from autoseg.training.data.randomness import BatchKey

OF_COLOURS = {"saturation", "hue", "stain"}
OF_MASKS = {"mask_morphology", "mask_component_removal", "simulated_clicks"}
ALONE = {"spatial", "deformation", "mirror", "mirror_pairs"}
WARPED = {"rotation_probability": 0.5, "scaling_probability": 0.5}


@pytest.mark.parametrize("where", ["device", "host", "disk"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_no_batch_waits_for_the_device(plan_configuration, channels, data_folder, *, fold, where, dimensions):
    names = [name for name in TRANSFORMS if name not in OF_COLOURS | OF_MASKS | ALONE]
    changed = {"spatial": WARPED} | {name: {} for name in names} | {"mirror": {"axes": (0, 1)}}
    plan = plan_configuration(dimensions=dimensions, transforms=build_transforms(**changed), batch_size=5)
    with simulate_cuda() as findings:
        source = build_batch_source(plan, channels, data_folder=data_folder, fold=fold, seed=7)
        placement = DataPlacement(where=where, because="the test says so")
        batches = build_device_batch_source(source, plan, channels, device=DEVICE, placement=placement)
        findings.found.clear()
        for stream in ("training", "validation"):
            for iteration in range(3):
                batch = batches.make_batch(BatchKey(stream=stream, epoch=0, iteration=iteration))
                assert batch.image.device == batch.label_map.device == DEVICE
    assert findings.operations > 100
    assert findings.found == []
