"""Encoders of the literature keep the widths of published weights, and are planned with them."""

import re
from math import prod
from pathlib import Path

import pytest
import torch
from builders.fingerprints import build_fingerprint
from builders.hosts import build_host
from builders.labels import build_labels

from autoseg.cli.choices import find_planner
from autoseg.errors import PlanError
from autoseg.fingerprint import Machine
from autoseg.network_cost import Convolution, NetworkCost
from autoseg.networks.parts.encoders import build_encoder
from autoseg.plan import ConfigurationPlan
from autoseg.plan.network import EncoderUPlan, HybridPlan, NetworkPlan
from autoseg.workflows.plan.planning import find_network_cost
from planners import ARCHITECTURES
from planners.architectures.encoder_u import (
    DENSENET_161,
    RESNET_18,
    RESNET_34,
    RESNET_50,
    RESNET_101,
    VGG11,
    EncoderUProfile,
)

MACHINE = Machine(accelerator_memory_gb=None)
PARAMETERS = {  # of torchvision's models without their classifiers
    "VGG11": (VGG11, 9_220_480),
    "ResNet-18": (RESNET_18, 11_176_512),
    "ResNet-34": (RESNET_34, 21_284_672),
    "ResNet-50": (RESNET_50, 23_508_032),
    "ResNet-101": (RESNET_101, 42_500_160),
    "DenseNet-161": (DENSENET_161, 26_472_000),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_an_encoder_has_the_parameters_of_the_published_one(name: str) -> None:
    profile, expected = PARAMETERS[name]
    with torch.device("meta"):
        encoder = build_encoder(profile.build_published())
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of VGG11 under torchvision's names."""
    encoder = build_encoder(VGG11.build_published())
    path = tmp_path_factory.mktemp("weights") / "vgg11.pth"
    torch.save({encoder.find_published_name(name): tensor for name, tensor in encoder.state_dict().items()}, path)
    return path


def count_little(network: NetworkPlan, patch_voxels: tuple[int, ...], batch_size: int) -> NetworkCost:
    """A made-up cost, as counting that of two branches takes seconds."""
    elements = 100 * batch_size * prod(patch_voxels)
    convolution = Convolution(channels_in=1, channels_out=1, output_elements=elements, multiply_adds=elements)
    return NetworkCost(
        kept_bytes=4 * elements,
        parameter_count=network.input_channels,
        parameter_bytes=4 * network.input_channels,
        multiply_adds=elements,
        matrix_multiply_adds=0,
        convolutions=(convolution,),
        normalized_elements=elements,
        output_elements=elements,
    )


def find_network(configuration: ConfigurationPlan) -> EncoderUPlan:
    assert isinstance(configuration.network, EncoderUPlan)
    return configuration.network


def test_a_plan_says_which_file_its_encoder_begins_with_and_why_its_layers_are_others(weights: Path) -> None:
    planner = find_planner("default", "ternaus_net", pretrained=weights)
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (1, 256, 320))
    plan = planner.plan(fingerprint, MACHINE, measure_cost=find_network_cost)
    network = find_network(plan.configurations["2d"])
    assert network.pretrained is not None
    assert (network.pretrained.path, len(network.pretrained.sha256)) == (weights.resolve(), 64)
    assert network.layers.normalization == "none"
    assert network.features_per_stage == (64, 128, 256, 512, 512, 512)
    (reason,) = (reason for reason in plan.reasons if reason.subject == "2d: first weights of the encoder")
    assert str(weights.resolve()) in reason.value
    assert network.pretrained.sha256 in reason.because
    assert plan.planner == f"default --architecture ternaus_net --pretrained vgg11.pth#{network.pretrained.sha256:.8}"


def choose(profile: EncoderUProfile, width: int) -> EncoderUPlan:
    architecture = ARCHITECTURES["ternaus_net"]
    topology = architecture.topology.compute((1.0, 1.0), (256, 256))
    network, _ = profile(topology, input_channels=1, output_channels=2, width=width)
    return network


def test_widths_are_scaled_unless_there_are_weights(weights: Path) -> None:
    small, dense = choose(VGG11, 16), choose(DENSENET_161, 16)
    assert small.features_per_stage == (32, 64, 128, 256, 256, 256)
    assert (small.pretrained, small.layers.normalization) == (None, "instance")
    assert dense.features_per_stage == (48, 48, 192, 384, 1056, 1104)
    planned = find_planner("default", "ternaus_net", pretrained=weights).profile.choose_network
    assert choose(planned, 16).features_per_stage == VGG11.features


@pytest.mark.parametrize("architecture", [None, "u_net"])
def test_weights_for_a_network_without_such_an_encoder_are_refused(architecture: str | None, weights: Path) -> None:
    with pytest.raises(PlanError, match=r"--pretrained needs an --architecture .*: ternaus_net, ce_net"):
        find_planner("default", architecture, pretrained=weights)


def test_weights_of_another_encoder_are_refused_before_anything_is_planned(weights: Path) -> None:
    with pytest.raises(PlanError, match=r"do not fit the encoder resnet: expected conv1.weight, found none"):
        find_planner("default", "ce_net", pretrained=weights)


def test_kernels_and_strides_are_those_of_the_topology_and_lower_resolutions_are_left_out() -> None:
    architecture = ARCHITECTURES["ce_net"]
    topology = architecture.topology.compute((1.0, 1.0), (512, 512))
    assert topology.stage_count > 6
    network, reasons = architecture.choose_network(topology, input_channels=1, output_channels=2)
    assert isinstance(network, EncoderUPlan)
    assert network.strides == topology.strides[:6]
    assert network.kernel_sizes == topology.kernel_sizes[:6]
    assert [context.name for context in network.contexts] == ["dac", "rmp"]
    (reason,) = (reason for reason in reasons if reason.subject == "encoder")
    assert "left out" in reason.because


def test_a_network_for_volumes_alone_is_planned_for_these_and_slices_are_left_out_with_a_reason() -> None:
    planner = find_planner("default", "h_dense_unet")
    fingerprint = build_fingerprint((5.0, 0.8, 0.8), (16, 96, 96))
    plan = planner.plan(fingerprint, MACHINE, measure_cost=find_network_cost)
    assert set(plan.configurations) == {"3d_fullres"}
    network = plan.configurations["3d_fullres"].network
    assert isinstance(network, HybridPlan)
    assert network.slices.features_per_stage[:3] == (96, 96, 384)
    assert network.volumes.features_per_stage[:3] == (64, 64, 160)
    assert network.slices.strides == tuple(stride[1:] for stride in network.volumes.strides)
    (reason,) = (reason for reason in plan.reasons if reason.subject == "2d")
    assert "none for slices alone" in reason.because


def test_with_regions_the_3d_branch_sees_the_probability_of_each_in_every_configuration() -> None:
    labels = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
    fingerprint = build_fingerprint((1.0, 1.0, 1.0), (64, 64, 64), labels=labels)
    host = Machine(accelerator_memory_gb=None, throughput=build_host())
    for planner, machine in (("default", MACHINE), ("lite", host)):
        plan = find_planner(planner, "h_dense_unet").plan(fingerprint, machine, measure_cost=count_little)
        for name, configuration in plan.configurations.items():
            assert isinstance(configuration.network, HybridPlan)
            assert configuration.network.probabilities == "sigmoid"
            (reason,) = (reason for reason in plan.reasons if reason.subject == f"{name}: probabilities of slices")
            assert "regions may overlap" in reason.because
    (reason,) = (reason for reason in plan.reasons if reason.subject.endswith(": network"))
    assert re.search(r"features \d+(, \d+)+ and \d+(, \d+)+$", reason.value)


@pytest.fixture(scope="module")
def dense_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of DenseNet-161 under torchvision's names, all zero."""
    with torch.device("meta"):
        encoder = build_encoder(DENSENET_161.build_published())
    path = tmp_path_factory.mktemp("weights") / "densenet161.pth"
    state = encoder.state_dict()
    torch.save({encoder.find_published_name(name): torch.zeros(state[name].shape) for name in state}, path)
    return path


def test_the_branch_for_slices_begins_with_a_file_and_the_other_one_does_not(dense_weights: Path) -> None:
    planner = find_planner("default", "h_dense_unet", pretrained=dense_weights)
    plan = planner.plan(build_fingerprint((5.0, 0.8, 0.8), (16, 96, 96)), MACHINE, measure_cost=count_little)
    network = plan.configurations["3d_fullres"].network
    assert isinstance(network, HybridPlan)
    assert network.slices.pretrained is not None
    assert network.slices.pretrained.path == dense_weights.resolve()
    assert (network.slices.layers.normalization, network.volumes.layers.normalization) == ("batch", "instance")
    assert network.volumes.pretrained is None
    assert network.describe()["first weights"].startswith("densenet161.pth (")
    (reason,) = (reason for reason in plan.reasons if reason.subject == "3d_fullres: first kernels")
    assert reason.value == "mean"
    assert plan.planner.startswith("default --architecture h_dense_unet --pretrained densenet161.pth#")


def test_a_plan_by_time_refuses_a_network_for_volumes_alone_where_only_slices_can_be_planned() -> None:
    planner = find_planner("lite", "h_dense_unet")
    machine = Machine(accelerator_memory_gb=None, throughput=build_host())
    with pytest.raises(PlanError, match=r"none for slices alone; choose another --architecture"):
        planner.plan(build_fingerprint((1.0, 1.0, 1.0), (1, 256, 320)), machine, measure_cost=find_network_cost)
