from itertools import product

import numpy as np
import pytest
import torch
from builders.operations import record_operations
from builders.plans import build_configuration
from torch import nn

from autoseg.errors import DeviceError, PredictionError
from autoseg.inference.sliding_window import prediction
from autoseg.inference.sliding_window.prediction import (
    compute_inference_batch_size,
    predict_logits,
    retry_in_ram,
    select_storage_device,
)
from autoseg.inference.sliding_window.windows import compute_gaussian_weights, compute_window_starts
from autoseg.networks import build_network

CPU = torch.device("cpu")


class Local(nn.Module):
    """Three classes that depend on nothing but the voxel itself."""

    def forward(self, image):
        return (torch.cat([image, 2 * image - 1, image**2], dim=1),)


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, image):
        return (torch.cat([self.factor * image] * 3, dim=1), image)


def predict_plainly(network, image, patch, step):
    """The same in a few plain lines: one window at a time, two volumes of sums, numpy."""
    flat = len(patch) == 2
    patch = (1, *patch) if flat else patch
    missing = [max(0, wanted - extent) for wanted, extent in zip(patch, image.shape[1:], strict=True)]
    below = [count // 2 for count in missing]
    padded = np.pad(image, [(0, 0), *((low, count - low) for low, count in zip(below, missing, strict=True))])
    z, y, x = (compute_gaussian_weights(extent).astype(np.float64) for extent in patch)
    weights = z[:, None, None] * y[:, None] * x
    sums, total = np.zeros((3, *padded.shape[1:])), np.zeros(padded.shape[1:])
    axes = [compute_window_starts(extent, wanted, step) for extent, wanted in zip(padded.shape[1:], patch, strict=True)]
    for corner in product(*axes):
        inside = tuple(slice(start, start + extent) for start, extent in zip(corner, patch, strict=True))
        window = torch.from_numpy(padded[:, *inside])
        with torch.no_grad():
            logits = network(window if flat else window[None])[0].numpy()
        sums[:, *inside] += weights * (np.moveaxis(logits, 0, 1) if flat else logits[0])
        total[inside] += weights
    inside = tuple(slice(low, low + extent) for low, extent in zip(below, image.shape[1:], strict=True))
    return (sums / total)[:, *inside]


@pytest.mark.parametrize("shape", [(20, 33, 27), (5, 20, 30), (3, 4, 5)])
@pytest.mark.parametrize("patch", [(8, 16, 12), (16, 12)])
@pytest.mark.parametrize("step", [0.3, 0.5, 1.0])
def test_cutting_and_blending_a_local_network_is_that_network_on_the_whole_volume(shape, patch, step):
    image = torch.randn(1, *shape)
    logits = predict_logits(
        Local(), image, configuration=build_configuration(patch), mirror_axes=(0, 1), device=CPU, step_fraction=step
    )
    torch.testing.assert_close(logits, Local()(image[None])[0][0], atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", [(20, 18, 27), (7, 20, 11)])
@pytest.mark.parametrize("patch", [(8, 16, 12), (16, 12)])
def test_a_real_network_agrees_with_a_plain_implementation(shape, patch):
    torch.manual_seed(0)
    configuration = build_configuration(patch)
    network = build_network(configuration.network).eval()
    image = torch.randn(1, *shape)
    logits = predict_logits(network, image, configuration=configuration, mirror_axes=(), device=CPU)
    np.testing.assert_allclose(logits.numpy(), predict_plainly(network, image.numpy(), patch, 0.5), atol=2e-5)


@pytest.mark.parametrize(("border", "mode"), [("mirror", "reflect"), ("replicate", "edge")])
@pytest.mark.parametrize(
    ("shape", "patch"), [((7, 18, 5), (8, 16, 12)), ((3, 5, 20), (16, 12)), ((1, 3, 9), (8, 16, 12))]
)
def test_windows_beyond_the_image_see_it_continued(border, mode, *, shape, patch):
    torch.manual_seed(0)
    configuration = build_configuration(patch, border=border)
    network = build_network(configuration.network).eval()
    image = torch.randn(1, *shape)
    logits = predict_logits(network, image, configuration=configuration, mirror_axes=(), device=CPU)
    missing = [max(0, wanted - extent) for wanted, extent in zip(patch[::-1], shape[::-1], strict=False)]
    below = [count // 2 for count in missing]
    counts = [(low, count - low) for low, count in zip(below, missing, strict=True)] + [(0, 0)] * (4 - len(patch))
    padded = torch.from_numpy(np.pad(image.numpy(), counts[::-1], mode=mode))
    expected = predict_logits(network, padded, configuration=configuration, mirror_axes=(), device=CPU)
    inside = tuple(slice(low, low + extent) for (low, _), extent in zip(counts[2::-1], shape, strict=True))
    torch.testing.assert_close(logits, expected[:, *inside])


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_batches_of_windows_give_what_single_windows_give(patch):
    torch.manual_seed(0)
    configuration = build_configuration(patch)
    network = build_network(configuration.network).eval()
    image = torch.randn(1, 9, 13, 8)
    single, batched = (
        predict_logits(
            network, image, configuration=configuration, mirror_axes=(0, 1), device=CPU, inference_batch_size=count
        )
        for count in (1, 10)
    )
    torch.testing.assert_close(single, batched, atol=1e-5, rtol=1e-5)


def test_a_pass_on_a_gpu_is_a_training_batch_and_on_the_cpu_small_patches_share_one():
    volume, plane = (build_configuration(patch, training={"batch_size": 7}) for patch in ((40, 56, 40), (56, 40)))
    assert compute_inference_batch_size(volume, torch.device("cuda")) == 7
    assert compute_inference_batch_size(volume, CPU) == 1
    assert compute_inference_batch_size(plane, CPU) == 14


class Recording(nn.Module):
    """Depends on the position, so that mirrored views differ, and remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def forward(self, image):
        self.given += list(image.clone())
        ramp = torch.arange(image.shape[-1]).float()
        return (torch.cat([image, image * ramp, ramp - image], dim=1),)


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_constant_windows_in_a_row_are_predicted_once_and_change_nothing(patch):
    torch.manual_seed(0)
    image = torch.full((1, 9, 8, 40), -0.7)
    image[..., 30:] = torch.randn(1, 9, 8, 10)
    options = {"configuration": build_configuration(patch), "mirror_axes": (0, 1), "device": CPU}
    network, plain = Recording(), Recording()
    logits = predict_logits(network, image, inference_batch_size=3, **options)
    # A hair of noise makes no window constant, so that each one is predicted in all its views.
    expected = predict_logits(plain, image + 1e-7 * torch.randn(image.shape), **options)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    assert sum(bool((given == -0.7).all()) for given in network.given) == 1
    assert len(network.given) < len(plain.given) / 2


def test_air_on_both_sides_of_a_body_is_predicted_once():
    image = torch.zeros(1, 8, 8, 48)
    image[..., 20:28] = torch.randn(1, 8, 8, 8)
    network = Recording()
    options = {"configuration": build_configuration((8, 8, 8)), "mirror_axes": (0, 1, 2), "device": CPU}
    predict_logits(network, image, **options)
    body_windows = sum(1 for start in range(0, 41, 4) if start < 28 and start + 8 > 20)
    assert len(network.given) == 8 * body_windows + 1


def test_windows_of_different_constants_are_not_taken_for_each_other():
    image = torch.zeros(1, 8, 8, 24)
    image[..., 8:16], image[..., 16:] = 1.0, 2.0
    options = {"configuration": build_configuration((8, 8, 8)), "mirror_axes": (), "device": CPU}
    logits = predict_logits(Local(), image, step_fraction=1.0, **options)
    assert torch.equal(logits, Local()(image[None])[0][0])


def test_a_window_with_equal_corners_is_not_taken_for_constant():
    image = torch.zeros(1, 8, 8, 8)
    image[0, 4, 4, 4] = 5.0
    logits = predict_logits(Local(), image, configuration=build_configuration((8, 8, 8)), mirror_axes=(), device=CPU)
    torch.testing.assert_close(logits, Local()(image[None])[0][0])


def test_folds_are_averaged_as_logits():
    image = torch.randn(1, 9, 9, 9)
    configuration = build_configuration((8, 8, 8))
    logits = predict_logits(
        [Scaled(1.0), Scaled(2.0), Scaled(6.0)], image, configuration=configuration, mirror_axes=(), device=CPU
    )
    torch.testing.assert_close(logits, (3 * image).expand(3, -1, -1, -1), atol=1e-5, rtol=1e-5)


def test_dropout_is_off_while_predicting_and_on_again_afterwards():
    class WithDropout(nn.Module):
        def __init__(self):
            super().__init__()
            self.dropout = nn.Dropout(0.5)

        def forward(self, image):
            return (self.dropout(torch.cat([image] * 3, dim=1)),)

    network = WithDropout()
    image = torch.ones(1, 8, 8, 8)
    logits = predict_logits(network, image, configuration=build_configuration((8, 8, 8)), mirror_axes=(), device=CPU)
    assert torch.equal(logits, torch.ones(3, 8, 8, 8))
    assert network.training
    assert network.dropout.training


def test_every_batch_of_windows_is_reported():
    calls = []
    predict_logits(
        Local(),
        torch.randn(1, 8, 8, 20),
        configuration=build_configuration((8, 8, 8)),
        mirror_axes=(),
        device=CPU,
        inference_batch_size=3,
        on_window=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(3, 4), (4, 4)]


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_output_that_is_not_finite_is_refused(value):
    class Broken(nn.Module):
        def forward(self, image):
            return (torch.cat([image, image + value, image], dim=1),)

    with pytest.raises(PredictionError, match=r"must be finite, found .* in channel\(s\) \[1\]"):
        predict_small(Broken(), torch.zeros(1, 8, 8, 8))


def predict_small(network, image):
    predict_logits(network, image, configuration=build_configuration((8, 8, 8)), mirror_axes=(), device=CPU)


@pytest.mark.parametrize(
    ("weight", "value", "cause"),
    [
        (1.0, float("nan"), "the preprocessed image holds some itself"),
        (float("nan"), 1.0, "the weights of the network hold some, so its training diverged"),
        (1e30, 1e30, r"image \(at most 1e\+30 after preprocessing\) and weights are finite, so numbers overflow"),
    ],
)
def test_the_cause_of_an_output_that_is_not_finite_is_named_without_guessing_of_half_precision(weight, value, cause):
    network = nn.Conv3d(1, 3, 1)
    nn.init.constant_(network.weight, weight)
    network.forward = lambda image: (nn.Conv3d.forward(network, image),)
    with pytest.raises(PredictionError, match=cause) as caught:
        predict_small(network, torch.full((1, 8, 8, 8), value))
    assert "half precision" not in str(caught.value)


@pytest.mark.parametrize(("needed_bytes", "kind"), [(60, "cuda"), (61, "cpu")])
def test_sums_lie_on_the_gpu_if_half_of_its_free_and_cached_memory_holds_them(monkeypatch, caplog, needed_bytes, kind):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    caplog.set_level("INFO")
    assert select_storage_device(torch.device("cuda"), needed_bytes).type == kind
    assert ("in RAM" in caplog.text) == (kind == "cpu")


def test_sums_in_ram_follow_the_device_by_a_batch_and_are_those_on_the_device(monkeypatch):
    """`cpu:0` takes the place of RAM beside a GPU, with the CPU as that GPU."""
    image = torch.randn(1, 8, 8, 44)
    options = {"configuration": build_configuration((8, 8, 8)), "mirror_axes": (0,), "inference_batch_size": 4}
    expected = predict_logits(Local(), image, device=CPU, **options)
    events = []

    def start_copy(values):
        events.append("start")
        return lambda: events.append("arrived") or values

    monkeypatch.setattr(prediction, "start_copy_to_cpu", start_copy)
    monkeypatch.setattr(prediction, "select_storage_device", lambda device, needed_bytes: torch.device("cpu:0"))
    torch.testing.assert_close(predict_logits(Local(), image, device=CPU, **options), expected)
    assert events[:6] == ["start"] * 4 + ["arrived"] * 2  # two windows are added while the next two are computed
    assert events.count("arrived") == events.count("start") == 10


class Counted(nn.Module):
    """One operation, so that all others are those around the network."""

    def forward(self, image):
        return (image.expand(-1, 3, *image.shape[2:]).clone(),)


@pytest.mark.parametrize(
    ("patch", "batch", "axes"), [((8, 8, 8), 2, (0, 1, 2)), ((8, 8, 8), 8, ()), ((8, 8), 64, (0, 1)), ((8, 8), 7, (0,))]
)
def test_a_pass_launches_few_operations_and_no_window_is_waited_for(monkeypatch, patch, batch, axes):
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)  # within, PyTorch does not show that a value is read
    views, group = 2 ** len(axes), max(1, batch // 2 ** len(axes))

    def count(length):
        image = torch.randn((1, length, 8, 8) if len(patch) == 2 else (1, 8, 8, length))
        windows = []
        operations = record_operations(
            lambda: predict_logits(
                Counted(),
                image,
                configuration=build_configuration(patch),
                mirror_axes=axes,
                device=CPU,
                inference_batch_size=batch,
                on_window=lambda done, total: windows.append(total),
            )
        )
        names = [name for name, _ in operations]
        return names, windows[-1]

    few, fewer_windows = count(20)
    many, more_windows = count(200)
    assert many.count("aten._local_scalar_dense") == few.count("aten._local_scalar_dense")
    looks = 1  # torch.equal, on the CPU's image: whether a window is constant
    of_windows = looks + 3  # two products of weights, one weighted addition
    passes = -(-views * group // batch)
    of_groups = 3 * views + 2 * passes + 6  # mirroring there and back and a sum; a batch and the network; the means
    groups = -(-more_windows // group)
    assert len(many) - len(few) <= of_windows * (more_windows - fewer_windows) + of_groups * groups


class Storage:
    """Work that runs out of memory on some devices and remembers where it was done."""

    def __init__(self, full):
        self.full = full
        self.calls = []

    def __call__(self, storage):
        self.calls.append(storage.type)
        if storage.type in self.full:
            raise torch.OutOfMemoryError
        return torch.zeros(1)


def test_a_full_device_is_announced_and_the_sums_go_to_main_memory(caplog):
    work = Storage(full=("cuda",))
    retry_in_ram(work, torch.device("cuda"))
    assert work.calls == ["cuda", "cpu"]
    assert "ran out of memory" in caplog.text


def test_a_device_without_room_for_one_batch_is_an_error_that_says_so():
    with pytest.raises(DeviceError, match="too little memory for the network"):
        retry_in_ram(Storage(full=("cuda", "cpu")), torch.device("cuda"))


class Crowded(nn.Module):
    """Doubles its input, and has no room for more than some patches."""

    def __init__(self, room, error=None):
        super().__init__()
        self.room = room
        self.error = error or torch.OutOfMemoryError()
        self.batches = []

    def forward(self, patches):
        self.batches.append(len(patches))
        if len(patches) > self.room:
            raise self.error
        return (2 * patches,)


def predict_crowded(network):
    image = torch.randn(1, 8, 8, 24)
    configuration = build_configuration((8, 8, 8)).model_copy()
    network_plan = configuration.network.model_copy(update={"output_channels": 1})
    logits = predict_logits(
        network,
        image,
        configuration=configuration.model_copy(update={"network": network_plan}),
        mirror_axes=(),
        device=CPU,
        inference_batch_size=5,
    )
    return image, logits


def test_where_fewer_patches_fit_than_planned_fewer_are_given_at_once(caplog):
    network = Crowded(room=1)
    image, logits = predict_crowded(network)
    torch.testing.assert_close(logits, 2 * image)
    assert network.batches == [5, 2, 1, 1, 1, 1, 1]
    assert "again with the batch size 1" in caplog.text


def test_the_sums_go_to_ram_when_not_even_one_patch_fits_beside_them(monkeypatch, caplog):
    tried = []

    def blend(job, storage):
        tried.append((job.inference_batch_size, storage.type))
        if storage.type != "cpu":
            raise torch.OutOfMemoryError
        return job.image

    monkeypatch.setattr(prediction, "_blend_windows", blend)
    monkeypatch.setattr(prediction, "select_storage_device", lambda device, needed_bytes: torch.device("cuda"))
    predict_crowded(Crowded(room=1))
    assert tried == [(5, "cuda"), (2, "cuda"), (1, "cuda"), (1, "cpu")]
    assert [record.message.partition("again with ")[2] for record in caplog.records] == [
        "the batch size 2",
        "the batch size 1",
        "the sums in RAM",
    ]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_a_lack_of_memory_is_known_whatever_reports_it(error):
    network = Crowded(room=1, error=error)
    image, logits = predict_crowded(network)
    torch.testing.assert_close(logits, 2 * image)


def test_where_not_even_one_patch_fits_the_device_is_too_small():
    with pytest.raises(DeviceError, match="too little memory for the network"):
        predict_crowded(Crowded(room=0))


def test_other_errors_of_the_network_are_not_taken_for_a_full_device():
    with pytest.raises(RuntimeError, match="shapes"):
        predict_crowded(Crowded(room=1, error=RuntimeError("shapes do not match")))


def test_other_errors_are_not_taken_for_a_full_device():
    def fail(storage):
        raise RuntimeError(storage)

    with pytest.raises(RuntimeError, match="cuda"):
        retry_in_ram(fail, torch.device("cuda"))
