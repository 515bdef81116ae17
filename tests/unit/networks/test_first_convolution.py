import pytest
import torch
from builders.labels import build_labels
from builders.plans import build_configuration
from torch import nn

from autoseg.networks.first_convolution import FORMS, FirstConvolutionForm, reform_first_convolutions
from autoseg.training.execution import TrainingExecution
from autoseg.training.step import build_learner

LAYOUTS = {2: torch.channels_last, 3: torch.channels_last_3d}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("kernel", "stride", "channels"), [((3, 3, 3), 1, 1), ((1, 3, 3), (1, 2, 2), 2), ((3, 5), 1, 4)]
)
def test_every_form_computes_the_convolution_and_its_gradients(form, kernel, stride, *, channels):
    torch.manual_seed(0)
    dimensions = len(kernel)
    kind = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    original = kind(channels, 6, kernel, stride=stride, padding=tuple(extent // 2 for extent in kernel))
    other = FirstConvolutionForm(original, form, LAYOUTS[dimensions])
    image = torch.randn(2, channels, *(7, 8, 9)[:dimensions])
    expected, found = original(image), other(image)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert found.is_contiguous(memory_format=LAYOUTS[dimensions])
    slope = torch.randn_like(expected)
    gradients = [torch.autograd.grad(result, [original.weight, original.bias], slope) for result in (expected, found)]
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-4, rtol=1e-4)
    assert other.state_dict().keys() == original.state_dict().keys()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_computes_in_the_dtype_of_autocast(form):
    convolution = FirstConvolutionForm(nn.Conv3d(1, 4, 3, padding=1), form, torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolution(torch.randn(1, 1, 4, 4, 4)).dtype == torch.bfloat16


def test_only_convolutions_of_few_channels_that_see_their_neighbours_are_reformed():
    network = nn.Sequential(
        nn.Conv3d(1, 8, 3),
        nn.Conv3d(8, 8, 3),
        nn.Conv3d(1, 8, 1),
        nn.Conv3d(4, 4, 3, groups=4),
        nn.Conv3d(2, 1, 3, dilation=2),
    )
    assert reform_first_convolutions(network, "padded", torch.channels_last_3d) == 1
    assert isinstance(network[0], FirstConvolutionForm)


@pytest.mark.parametrize("form", FORMS)
def test_a_learner_trains_with_a_form_as_with_the_convolution(form):
    layout, labels = torch.channels_last, build_labels({"organ": (1,), "lesion": (2,)})
    plain, other = (
        build_learner(
            build_configuration((16, 16)),
            labels,
            device=torch.device("cpu"),
            seed=0,
            execution=TrainingExecution(memory_format=layout, first_convolution=chosen),
        )
        for chosen in (None, form)
    )
    assert other.network.state_dict().keys() == plain.network.state_dict().keys()
    assert [tuple(weight.shape) for weight in other.parameters] == [tuple(weight.shape) for weight in plain.parameters]
    assert any(isinstance(module, FirstConvolutionForm) for module in other.network.modules())
    image = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(other.call_network(image)[0], plain.call_network(image)[0], atol=1e-4, rtol=1e-4)
