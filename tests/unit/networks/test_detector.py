"""Detectors: published sizes, fused branches, and the map into which boxes are drawn."""

from math import log

import pytest
import torch

from autoseg.document import parse_part
from autoseg.errors import DocumentError
from autoseg.inference.execution.preparation import prepare_network
from autoseg.networks import build_network
from autoseg.networks.families.detector import BACKGROUND_SCORE, compute_distances
from autoseg.networks.fusion import FusibleModule, fuse_modules
from autoseg.networks.parts.rep_units import RepUnit
from autoseg.plan.network import DetectorPlan

CPU = torch.device("cpu")


def plan_yolo(width: float) -> DetectorPlan:
    """YOLOv6-N and -S: widths 64 to 1024, depths 6, 12, 18, 6, and 12 of the neck times 0.33."""
    return DetectorPlan(
        dimensions=2,
        input_channels=3,
        output_channels=80,
        features_per_stage=tuple(int(width * features) for features in (64, 128, 256, 512, 1024)),
        kernel_sizes=((3, 3),) * 5,
        strides=((1, 1), *((2, 2),) * 4),
        blocks_per_stage=(0, 2, 4, 6, 2),
        neck_blocks=4,
        levels=3,
        distance_bins=1,
        probabilities="sigmoid",
        least_score=0.25,
        largest_overlap=0.65,
    )


@pytest.mark.parametrize(("width", "published"), [(0.25, 4_318_460), (0.5, 17_222_908)], ids=["N", "S"])
def test_fused_detectors_have_the_parameters_of_yolov6(width: float, published: int) -> None:
    with torch.device("meta"):
        network = build_network(plan_yolo(width))
        fuse_modules(network)
    assert sum(parameter.numel() for parameter in network.parameters()) == published


@pytest.mark.parametrize("channels_out", [6, 8], ids=["with identity", "without identity"])
@pytest.mark.parametrize(
    ("kernel", "stride"), [((3, 3), None), ((3, 1), (2, 1)), ((1, 3, 3), None), ((3, 3, 3), (2, 2, 2))]
)
@torch.no_grad()
def test_normalized_branches_are_one_convolution_after_fusion(kernel, stride, channels_out: int) -> None:
    torch.manual_seed(0)
    unit = RepUnit(6, channels_out, kernel, stride=stride)
    for module in unit.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm3d):
            assert module.running_mean is not None
            for values in (module.weight, module.running_var):
                values.uniform_(0.5, 2)
            for values in (module.bias, module.running_mean):
                values.normal_()
    features = torch.randn(2, 6, *(8,) * len(kernel))
    expected = unit.eval()(features)
    fused = unit.fuse()
    assert [type(module) for module in fused.modules() if isinstance(module, FusibleModule)] == []
    torch.testing.assert_close(fused(features), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_detector_predicts_the_same_with_fused_branches(make_plan) -> None:
    plan = make_plan("detector", 3)
    network = build_network(plan, torch.Generator().manual_seed(0)).eval()
    image = torch.randn(1, plan.input_channels, *(4 * divisor for divisor in plan.patch_divisors))
    expected = network(image, True)
    prepared = prepare_network(network, device=CPU, dtype="float32")
    assert not any(isinstance(module, FusibleModule) for module in prepared.modules())
    for found, wanted in zip(prepared(image, True), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def find_logits(make_plan, *, probabilities, scores, boxes):
    """The map of given boxes on 4 x 4 pixels, of a detector of outputs for two classes."""
    outputs = 3 if probabilities == "softmax" else 2
    plan = make_plan("detector", 2, probabilities=probabilities, output_channels=outputs, least_score=0.5)
    return build_network(plan)._draw(torch.tensor([scores]), torch.tensor([boxes]), torch.Size((4, 4)), most=2)[0]


LEFT, LEFT_TOO, RIGHT = [[0.0, 0.0], [4.0, 2.0]], [[0.0, 0.0], [4.0, 2.4]], [[0.0, 3.0], [4.0, 4.0]]


def test_inside_a_box_logits_are_those_of_its_scores_and_background_has_none(make_plan) -> None:
    logits = find_logits(make_plan, probabilities="softmax", scores=[[2.0, 1.0], [-1.0, 0.5]], boxes=[LEFT, RIGHT])
    nothing = log(BACKGROUND_SCORE / (1 - BACKGROUND_SCORE))
    expected = torch.tensor([[0.0, 0.0, 0.0, 0.0], [2.0, 2.0, nothing, -1.0], [1.0, 1.0, nothing, 0.5]])
    torch.testing.assert_close(logits, expected[:, None].expand(3, 4, 4))


def test_of_boxes_that_overlap_the_one_of_the_highest_score_is_drawn(make_plan) -> None:
    logits = find_logits(make_plan, probabilities="sigmoid", scores=[[-3.0, 1.0], [0.5, 2.0]], boxes=[LEFT_TOO, LEFT])
    assert (logits[0, 0] > 0).tolist() == [True, True, False, False]
    torch.testing.assert_close(logits[1, 0, 0], torch.tensor(2.0))


def test_a_distance_is_the_mean_of_its_bins_or_what_the_network_gives() -> None:
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3]).expand(1, 1, 2, 2, 4)
    torch.testing.assert_close(compute_distances(probabilities.log()), torch.full((1, 1, 2, 2), 2.1))
    assert compute_distances(torch.full((1, 1, 2, 2, 1), -0.5)).tolist() == [[[[-0.5] * 2] * 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": 4}, "levels must be at most 3, the number of stages"),
        ({"output_channels": 1}, "output_channels must be at least 2 for labels"),
        ({"blocks_per_stage": (1,)}, "blocks_per_stage must describe the 3 stages"),
    ],
)
def test_a_detector_that_cannot_be_built_is_refused(make_plan, changes, message: str) -> None:
    with pytest.raises(DocumentError, match=message):
        parse_part(make_plan("detector").model_dump() | changes, DetectorPlan, where="network")
