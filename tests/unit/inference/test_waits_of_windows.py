"""Windows on a simulated GPU: none waits for it, or mixes its tensors with others."""

import pytest
import torch
from builders.networks import FAMILIES, build_small_network_plan
from builders.plans import build_configuration
from builders.simulated_cuda import DEVICE, simulate_cuda

from autoseg.inference.sliding_window import prediction
from autoseg.inference.sliding_window.prediction import predict_logits
from autoseg.networks import build_network

CHANGES = {
    name: {"strides": ((1, 1), (2, 2), (2, 2)), "kernel_sizes": ((3, 3),) * 3} for name in ("detector", "mask_rcnn")
}
ONCE = {"a copy of (": "_blend_windows", "tolist waits": "_check_finite_output"}
"""What happens once, before or after all windows, and where: the image goes over, sums are looked at."""
ENDS = tuple(f" {name})" for name in ONCE.values())


@pytest.mark.parametrize(
    ("name", "free_bytes"),
    [*((name, 2**40) for name in (*FAMILIES, "context graph_unet") if name != "hybrid_2d_3d"), ("plain_unet", 0)],
)
def test_no_window_waits_for_the_device(monkeypatch, name, free_bytes):
    network = build_small_network_plan(name, 2, **CHANGES.get(name, {}))
    extents = tuple(4 * divisor for divisor in network.patch_divisors)
    plan = build_configuration(extents).model_copy(update={"network": network})
    image = torch.randn(network.input_channels, 2, *(extent + 3 for extent in extents))
    monkeypatch.setattr(prediction, "measure_free_memory", lambda device: free_bytes)
    with simulate_cuda() as findings:
        built = build_network(network, torch.Generator().manual_seed(0)).to(DEVICE)
        built.set_deep_supervision(enabled=False)
        findings.found.clear()
        logits = predict_logits(
            built, image, configuration=plan, mirror_axes=(0, 1), device=DEVICE, inference_batch_size=2
        )
    assert logits.device.type == ("cuda" if free_bytes else "cpu")
    assert findings.operations > 100
    once = [found for found in findings.found if any(map(found.startswith, ONCE)) and found.endswith(ENDS)]
    assert sorted(set(findings.found) - set(once)) == []
    assert len(once) <= len(ONCE)
