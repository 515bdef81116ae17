"""Networks are adapted to what the channels and the classes of a dataset stand for."""

import re

import pytest
from builders.labels import build_labels, build_plain_labels
from builders.networks import build_small_network_plan

from autoseg.plan import ChannelPlan
from autoseg.plan.network import EncoderUPlan, HybridPlan
from planners.rules.network_data import adapt_network, choose_first_kernels

LABELS = build_plain_labels(2)
REGIONS = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
PRETRAINED = {"path": "/weights.pth", "sha256": "0" * 64, "first_kernels": "mean"}


def name_channels(*names: str, normalization: str = "zscore") -> tuple[ChannelPlan, ...]:
    return tuple(
        ChannelPlan.model_validate(
            {"name": name, "normalization": normalization, "inside_nonzero_only": False, "window": None}
        )
        for name in names
    )


PICTURE = name_channels(*["rgb_to_0_1"] * 3, normalization="rgb_to_0_1")


@pytest.mark.parametrize(
    ("channels", "input_channels", "kernels", "words"),
    [
        (PICTURE, 3, "by_colour", "the channels are red, green and blue"),
        (name_channels("R", "G", "B"), 3, "by_colour", "the channels are red, green and blue"),
        (name_channels("red", "green", "blue"), 3, "by_colour", "the channels are red, green and blue"),
        (name_channels("T1", "T2", "FLAIR"), 3, "mean", r"\(T1, T2, FLAIR\) are not red, .* times 3 / 3"),
        (name_channels("blue", "green", "red"), 3, "mean", "are not red, green and blue"),
        (name_channels("CT"), 1, "mean", "times 3 / 1"),
        (PICTURE, 5, "mean", r"rgb_to_0_1 and 2 masks of the previous stage or neighbouring slices\) are not"),
    ],
)
def test_kernels_for_colours_are_kept_for_colours_alone(
    channels, input_channels: int, kernels: str, words: str
) -> None:
    decision = choose_first_kernels(channels, input_channels)
    assert decision.value == kernels
    assert re.search(words, decision.because)


def test_the_encoder_with_a_file_takes_kernels_by_colour_in_every_family_that_has_one() -> None:
    for name, dimensions, changes in (
        ("encoder_u", 2, {"input_channels": 3, "pretrained": PRETRAINED}),
        ("hybrid_2d_3d", 3, {"input_channels": 3}),
    ):
        plan = build_small_network_plan(name, dimensions, **changes)
        assert isinstance(plan, EncoderUPlan | HybridPlan)
        if isinstance(plan, HybridPlan):
            slices = plan.slices.model_dump() | {"pretrained": PRETRAINED}
            plan = HybridPlan.model_validate(plan.model_dump() | {"slices": slices})
        network, reasons = adapt_network(plan, LABELS, PICTURE)
        found = network.find_pretrained()
        assert found is not None
        assert found.first_kernels == "by_colour"
        assert "kept by colour" in network.describe()["first weights"]
        assert next(reason for reason in reasons if reason.subject == "first kernels").value == "by colour"


def test_the_3d_branch_sees_probabilities_as_the_classes_demand() -> None:
    plan = build_small_network_plan("hybrid_2d_3d", 3)
    for labels, expected in ((LABELS, "softmax"), (REGIONS, "sigmoid")):
        network, (reason,) = adapt_network(plan, labels, name_channels("CT"))
        assert isinstance(network, HybridPlan)
        assert network.probabilities == reason.value == expected


@pytest.mark.parametrize("name", ["plain_unet", "u_shaped", "encoder_u"])
def test_other_networks_stay_as_they_are(name: str) -> None:
    plan = build_small_network_plan(name, 2)
    assert adapt_network(plan, REGIONS, PICTURE) == (plan, ())
