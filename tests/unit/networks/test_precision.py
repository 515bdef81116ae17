import pytest
import torch

from autoseg.errors import DeviceError
from autoseg.networks.blocks import build_convolution
from autoseg.runtime.precision import autocast, find_dtype

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture
def pretend(monkeypatch):
    """A CPU or GPU with or without bfloat16."""

    def pretend(**capabilities):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    return pretend


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bfloat16"),
        ({"avx512_f": True, "avx512_bf16": False}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_on_a_cpu_is_bfloat16_where_it_has_instructions_for_it(pretend, capabilities, expected):
    pretend(**capabilities)
    assert find_dtype(CPU, "auto") == expected


@pytest.mark.parametrize(("is_amx", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_earlier_versions_of_pytorch_are_asked_in_their_way(monkeypatch, is_amx, expected):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: is_amx)
    assert find_dtype(CPU, "auto") == expected


@pytest.mark.parametrize(("is_native", "expected"), [(True, "bfloat16"), (False, "float16")])
def test_auto_on_a_gpu_is_bfloat16_where_it_computes_in_it(monkeypatch, is_native, expected):
    asked = []

    def is_supported(*, including_emulation):
        asked.append(including_emulation)
        return is_native

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.inference_mode())
    assert find_dtype(CUDA, "auto") == expected
    assert asked == [False]


def test_auto_elsewhere_is_single_precision():
    assert find_dtype(MPS, "auto") == "float32"


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_a_wanted_number_type_is_taken(pretend, wanted):
    pretend()
    assert find_dtype(CPU, wanted) == wanted
    assert find_dtype(CUDA, "float16") == "float16"


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(DeviceError, match=r"float16 needs a GPU.*use --precision bfloat16 or float32"):
        find_dtype(CPU, "float16")
    with pytest.raises(DeviceError, match="float16 needs a GPU"):
        autocast(CPU, "float16")


def test_an_unknown_precision_is_answered_with_the_known_ones():
    with pytest.raises(DeviceError, match="'fp16'; choose one of: auto, float32, bfloat16, float16"):
        find_dtype(CPU, "fp16")


def test_networks_compute_in_the_wanted_numbers_within_the_context_and_not_after():
    network = torch.nn.Conv2d(1, 1, 3)
    image = torch.zeros(1, 1, 8, 8)
    for wanted, expected in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        with autocast(CPU, wanted):
            assert network(image).dtype == expected
        assert network(image).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16), autocast(CPU, "float32"):
        assert network(image).dtype == torch.float32


@pytest.mark.parametrize(("kernel", "extent"), [((5, 5, 5), (4, 5, 4)), ((7, 7, 7), (6, 6, 6)), ((3, 3, 3), (2, 4, 4))])
def test_a_kernel_longer_than_the_image_gets_its_gradient_in_16_bits(kernel: tuple[int, ...], extent: tuple[int, ...]):
    convolution = build_convolution(16, 16, kernel, stride=(1, 1, 1))
    image = torch.randn(1, 16, *extent, generator=torch.Generator().manual_seed(0))
    gradients = []
    for precision in ("float32", "bfloat16"):
        convolution.zero_grad()
        with autocast(torch.device("cpu"), precision):
            convolved = convolution(image)
        convolved.float().square().mean().backward()
        gradients.append(convolution.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0.02, atol=0.02 * float(gradients[0].abs().max()))
