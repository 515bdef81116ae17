from functools import partial
from subprocess import CalledProcessError

import pytest
import torch
from builders.graphs import TapeGraphs
from builders.plans import build_configuration
from torch import nn

from autoseg.inference.execution.preparation import prepare_network
from autoseg.inference.sliding_window.planes import predict_planes
from autoseg.inference.sliding_window.prediction import predict_logits
from autoseg.inference.view_disagreement import NormalizingNetwork
from autoseg.networks import build_network
from autoseg.networks.parts.planes import join_planes
from autoseg.runtime.captured_network import PASSES_BEFORE, capture_networks, release_captured

CPU = torch.device("cpu")


class Doubling(nn.Module):
    """Doubles its input, and remembers how many patches it was given."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, image):
        self.sizes.append(len(image))
        return (2 * image,)


class Reading(nn.Module):
    """Reads a value, for which a device is waited for."""

    def forward(self, image):
        return (image * float(image.sum()),)


def capture(network, graphs, **options):
    return capture_networks([network], graphs, inference_batch_size=4, **options)[0]


def draw(count, seed=0):
    return torch.randn((count, 1, 4, 4), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_passes_are_replayed_after_the_first_ones_with_the_patches_of_the_moment():
    network, graphs = Doubling(), TapeGraphs()
    captured = capture(network, graphs)
    kept = []
    for seed in range(6):
        found = captured(draw(4, seed))[0]
        assert torch.equal(found, 2 * draw(4, seed))
        kept.append(found)
    assert torch.equal(kept[3], 2 * draw(4, 3)), "the next replay does not overwrite a result"
    assert graphs.calls == ["warm up"] * PASSES_BEFORE + ["capture"] + ["replay"] * 4
    assert network.sizes == [4] * (PASSES_BEFORE + 1)


@torch.inference_mode()
def test_a_smaller_batch_is_filled_up_and_one_that_is_much_smaller_runs_as_it_is():
    network, graphs = Doubling(), TapeGraphs()
    captured = capture(network, graphs)
    for _ in range(PASSES_BEFORE + 1):
        captured(draw(4))
    for count in (3, 2, 1, 5):
        assert torch.equal(captured(draw(count, 7))[0], 2 * draw(count, 7))
    assert network.sizes[PASSES_BEFORE + 1 :] == [1, 5]
    assert graphs.calls.count("replay") == 3


@torch.inference_mode()
def test_a_network_that_reads_a_value_is_never_captured_and_why_is_announced(caplog):
    graphs = TapeGraphs()
    captured = capture(Reading(), graphs)
    for seed in range(4):
        assert torch.equal(captured(draw(4, seed))[0], draw(4, seed) * float(draw(4, seed).sum()))
    assert graphs.calls == ["warm up"] * PASSES_BEFORE
    assert "not replayed as a CUDA graph: _local_scalar_dense waits for the device" in caplog.text


@torch.inference_mode()
def test_a_capture_that_fails_is_announced_and_passes_run_as_they_are(caplog):
    graphs = TapeGraphs(failure=RuntimeError("out of room\nand more"))
    captured = capture(Doubling(), graphs, is_rehearsed=False)
    for seed in range(4):
        assert torch.equal(captured(draw(4, seed))[0], 2 * draw(4, seed))
    assert graphs.calls == ["warm up"] * PASSES_BEFORE + ["capture"]
    assert caplog.text.count("capturing one failed (RuntimeError: out of room)") == 1


class Failing(nn.Module):
    """Fails in its first passes until it does without what fails."""

    def __init__(self, failure):
        super().__init__()
        self.failure = failure

    def forward(self, image):
        if self.failure is not None:
            raise self.failure
        return (2 * image,)

    def do_without(self):
        self.failure = None


class TritonError(Exception):
    """As Triton's own: no RuntimeError."""


@pytest.mark.parametrize("failure", [TritonError("no registers"), CalledProcessError(1, "gcc"), RuntimeError("no")])
@torch.inference_mode()
def test_a_first_pass_that_fails_is_announced_and_passes_run_without_what_failed(failure, caplog):
    graphs = TapeGraphs()
    captured = capture(Failing(failure), graphs, fall_back=Failing.do_without)
    for seed in range(3):
        assert torch.equal(captured(draw(4, seed))[0], 2 * draw(4, seed))
    assert graphs.calls == ["warm up"]
    assert f"a first pass failed ({type(failure).__name__}: " in caplog.text


@torch.inference_mode()
def test_a_first_pass_that_lacks_memory_or_has_nothing_to_do_without_ends_the_prediction():
    with pytest.raises(torch.OutOfMemoryError):
        capture(Failing(torch.OutOfMemoryError("full")), TapeGraphs(), fall_back=Failing.do_without)(draw(4))
    with pytest.raises(TritonError):
        capture(Failing(TritonError("no registers")), TapeGraphs())(draw(4))


@pytest.mark.parametrize("is_recorded", [False, True])
@torch.inference_mode()
def test_memory_that_is_needed_elsewhere_is_freed_and_passes_run_as_they_are(*, is_recorded):
    network, graphs = Doubling(), TapeGraphs()
    captured = capture(network, graphs)
    for _ in range(PASSES_BEFORE + 1):
        captured(draw(4))
    release_captured([NormalizingNetwork(captured, has_regions=False) if is_recorded else captured, network])
    assert captured._captured is None
    assert torch.equal(captured(draw(4, 5))[0], 2 * draw(4, 5))
    assert graphs.calls.count("replay") == 1


class Filling(Doubling):
    """Runs out of memory with more than one patch, once it is told to."""

    is_full = False

    def forward(self, image):
        if self.is_full and len(image) > 1:
            raise torch.OutOfMemoryError
        return super().forward(image)


def test_a_plane_that_lacks_memory_frees_the_captured_passes_of_all_planes():
    configuration = build_configuration((4, 4)).model_copy(update={"plane_axes": (0, 1)})
    networks = [Filling(), Filling()]
    captured = capture_networks(networks, TapeGraphs(), inference_batch_size=2)
    image = torch.randn(3, 8, 8, 8)  # as many channels as there are classes
    predict = partial(
        predict_planes,
        join_planes(captured, 2),
        image,
        configuration=configuration,
        mirror_axes=(),
        device=CPU,
        inference_batch_size=2,
    )
    torch.testing.assert_close(predict(), 2 * image)
    assert all(network._captured is not None for network in captured)
    captured[0].release()
    networks[0].is_full = True
    torch.testing.assert_close(predict(), 2 * image)
    assert all(network._captured is None for network in captured)


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_a_volume_is_predicted_by_captured_passes_as_by_others(patch):
    configuration = build_configuration(patch)
    networks = [build_network(configuration.network, torch.Generator().manual_seed(seed)).eval() for seed in range(2)]
    graphs = TapeGraphs()
    captured = capture_networks(networks, graphs, inference_batch_size=2)
    image = torch.randn(1, 9, 13, 8)

    def predict(members):
        return predict_logits(
            members, image, configuration=configuration, mirror_axes=(0, 1), device=CPU, inference_batch_size=2
        )

    assert torch.equal(predict(captured), predict(networks))
    assert graphs.calls.count("replay") > 4


def test_boxes_of_any_extents_are_predicted_by_one_captured_pass():
    configuration = build_configuration((8, 8, 8))
    network = build_network(configuration.network, torch.Generator().manual_seed(0)).eval()
    graphs, shapes = TapeGraphs(), set()
    network.register_forward_pre_hook(lambda module, inputs: shapes.add(inputs[0].shape[1:]))
    captured = capture_networks([network], graphs, inference_batch_size=2)
    image = torch.randn(1, 12, 9, 13)
    for z, y, x in ((5, 9, 13), (8, 8, 8), (3, 4, 5), (12, 7, 11)):
        found, expected = (
            predict_logits(
                members,
                image[:, :z, :y, :x].clone(),
                configuration=configuration,
                mirror_axes=(0,),
                device=CPU,
                inference_batch_size=2,
            )
            for members in (captured, network)
        )
        assert torch.equal(found, expected)
    assert graphs.calls.count("capture") == 1
    assert shapes == {(1, 8, 8, 8)}


@torch.inference_mode()
def test_a_network_that_is_prepared_with_the_fused_kernel_computes_the_same_with_channels_last():
    """On the CPU the kernel is not used: the rest of the network is that of a GPU."""
    plan = build_configuration((16, 16, 16)).network
    plain, fused = (
        prepare_network(
            build_network(plan, torch.Generator().manual_seed(0)), device=CPU, dtype="bfloat16", is_norm_fused=is_fused
        )
        for is_fused in (False, True)
    )
    image = torch.randn(2, 1, 16, 16, 16)
    torch.testing.assert_close(fused(image)[0], plain(image)[0], atol=0.05, rtol=0.05)
    assert any(getattr(module, "is_fused", False) for module in fused.modules())


@torch.inference_mode()
def test_a_network_without_a_normalization_for_the_kernel_says_so():
    network = build_network(build_configuration((16, 16, 16)).network)
    for module in network.modules():
        for name, child in module.named_children():
            if type(child).__name__ == "InstanceNormalization":
                setattr(module, name, nn.Identity())
    with pytest.raises(RuntimeError, match="no normalization that is computed by the fused kernel"):
        prepare_network(network, device=CPU, dtype="bfloat16", is_norm_fused=True)
