"""Laws that every row of the table of loss terms keeps, and the values of its formula."""

from functools import partial

import numpy as np
import pytest
import torch
from builders.labels import build_labels

from autoseg.plan.losses import LOSS_TERMS
from autoseg.runtime.distributed import WHOLE_BATCH, BatchPart
from autoseg.training.losses import LOSSES
from autoseg.training.losses.targets import build_target
from autoseg.training.losses.weighted_sum import WeightedLoss

ONE = build_labels({"one": (1,)})
PLAIN = {"background_weights": (1.0,), "class_weights": (1.0,)}
EXPONENTIAL = {"dice_weight": 0.8, "cross_entropy_weight": 0.2, "dice_exponent": 0.3, "cross_entropy_exponent": 0.3}
PARAMETERS = {
    "dice": {"batch_dice": False},
    "cross_entropy": {},
    "weighted_cross_entropy": {"background_weights": (0.5,), "class_weights": (2.0,)},
    "focal": {"background_weights": (0.75,), "class_weights": (0.25,), "gamma": 2.0},
    "border_weighted_cross_entropy": PLAIN | {"border_weight": 10.0, "border_sigma_mm": 5.0},
    "squared_dice": {"batch_dice": False},
    "generalized_dice": {"batch_dice": False, "final_weight": 1.0},
    "tversky": {
        "batch_dice": False,
        "false_positive_weight": 0.3,
        "false_negative_weight": 0.7,
        "exponent": 0.75,
    },
    "exponential_logarithmic": {"batch_dice": False, "background_weights": (1.1,), "class_weights": (2.0,)}
    | EXPONENTIAL,
    "boundary": {"final_weight": 1.0},
    "cldice": {"batch_dice": False, "skeleton_iterations": 2},
    "centre_distance": {"part_distances": (1.0, 0.25)},
}
TABLE = [
    pytest.param(name, batch_dice, id=f"{name}{'-batch' if batch_dice else ''}")
    for name, fields in PARAMETERS.items()
    for batch_dice in ((False, True) if "batch_dice" in fields else (False,))
]
every_term = pytest.mark.parametrize(("name", "batch_dice"), TABLE)
SCHEMES = {
    "labels": build_labels({"one": (1,), "two": (2,)}),
    "ignore": build_labels({"one": (1,), "two": (2,)}, ignore_value=3),
    "regions": build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2)),
    "regions and ignore": build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2), ignore_value=3),
}

REFUSED = {
    ("centre_distance", "regions"),
    ("centre_distance", "regions and ignore"),
    ("border_weighted_cross_entropy", "regions"),
    ("border_weighted_cross_entropy", "regions and ignore"),
    ("cldice", "ignore"),
    ("cldice", "regions and ignore"),
}
"""Terms that are impossible for labels of a kind."""


def list_possible(*schemes):
    """Lists every term with every kind of labels that it is possible for."""
    return pytest.mark.parametrize(
        ("name", "batch_dice", "scheme"),
        [
            pytest.param(*row.values, scheme, id=f"{scheme}-{row.id}")
            for scheme in schemes
            for row in TABLE
            if (row.values[0], scheme) not in REFUSED
        ],
    )


def build_term(name, labels=ONE, *, batch_dice=False, **changes):
    fields = {"weight": 1.0} | PARAMETERS[name] | changes
    if "batch_dice" in fields:
        fields["batch_dice"] = batch_dice
    if "class_weights" in fields and len(fields["class_weights"]) != len(labels.class_names):
        counts = {"class_weights": len(labels.class_names)}
        counts["background_weights"] = counts["class_weights"] if labels.has_regions else 1
        fields |= {field: tuple(0.5 + index for index in range(count)) for field, count in counts.items()}
    return LOSS_TERMS[name].model_validate(fields)


def compute(term, logits, label_map, labels=ONE, *, part=WHOLE_BATCH, spacing_mm=None):
    spacing_mm = spacing_mm or (1.0,) * (label_map.ndim - 1)
    return LOSSES[term.name](term, logits, build_target(label_map, labels, spacing_mm=spacing_mm), part)


def draw_case(labels, *, batch=2, space=(6, 7), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((batch, labels.output_channel_count, *space), generator=generator, dtype=torch.float64)
    values = 3 + (labels.ignore_label is not None)
    label_map = torch.randint(0, values, (batch, *space), generator=generator, dtype=torch.int16)
    return logits.to(dtype), label_map


def test_every_row_of_the_table_is_looked_at():
    assert PARAMETERS.keys() == LOSS_TERMS.keys()


def test_terms_are_refused_for_labels_that_their_formula_does_not_have():
    found = {
        (name, scheme)
        for name in PARAMETERS
        for scheme, labels in SCHEMES.items()
        if build_term(name, labels).find_problems(labels)
    }
    assert found == REFUSED


@pytest.mark.parametrize(
    ("name", "changes", "truth", "expected"),
    [
        ("cross_entropy", {}, (1, 0, 1, 0), 0.337539),
        ("weighted_cross_entropy", PLAIN | {"class_weights": (2.0,)}, (1, 0, 1, 0), 0.491585),
        ("weighted_cross_entropy", PLAIN | {"class_weights": (0.5,)}, (1, 0, 1, 0), 0.260516),
        ("weighted_cross_entropy", {"background_weights": (0.5,), "class_weights": (0.5,)}, (1, 0, 1, 0), 0.168769),
        ("weighted_cross_entropy", {"background_weights": (0.25,), "class_weights": (0.75,)}, (1, 0, 1, 0), 0.161408),
        ("dice", {}, (1, 0, 1, 0), 0.268293 - 1),
        ("squared_dice", {}, (1, 0, 1, 0), 0.109792),
        (
            "tversky",
            {"false_positive_weight": 0.5, "false_negative_weight": 0.5, "exponent": 1},
            (1, 0, 1, 0),
            0.268293,
        ),
        ("tversky", {"exponent": 1.0}, (1, 0, 1, 0), 0.261084),
        ("tversky", {}, (1, 0, 1, 0), 0.365245),
        ("generalized_dice", {}, (1, 0, 1, 0), 0.275),
        ("generalized_dice", {}, (1, 0, 0, 0), 0.396341),
        (
            "exponential_logarithmic",
            {"background_weights": ((4 / 3) ** 0.5,), "class_weights": (2.0,)},
            (1, 0, 0, 0),
            0.805348,
        ),
        ("focal", PLAIN, (1, 0, 1, 0), 0.043361),
        ("focal", {}, (1, 0, 1, 0), 0.022172),
    ],
)
@pytest.mark.parametrize("has_regions", [False, True])
def test_values_are_those_computed_by_hand(name, changes, truth, *, expected, has_regions):
    labels = build_labels({"one": (1,)}, region_write_values=(1,)) if has_regions else ONE
    inside = torch.tensor([[[0.9, 0.2, 0.6, 0.4]]], dtype=torch.float64).logit()
    logits = inside if has_regions else torch.cat([torch.zeros_like(inside), inside], dim=1)
    found = compute(build_term(name, labels, **changes), logits, torch.tensor([truth], dtype=torch.int16), labels)
    assert found.item() == pytest.approx(expected, abs=1e-6)


def test_the_boundary_loss_is_probability_times_signed_distance():
    label_map = torch.tensor([[[0, 0, 1, 1, 0, 0]]], dtype=torch.int16)
    inside = torch.tensor([[[[0.1, 0.3, 0.8, 0.9, 0.2, 1e-12]]]], dtype=torch.float64).logit()
    logits = torch.cat([torch.zeros_like(inside), inside], dim=1)
    found = compute(build_term("boundary"), logits, label_map)
    assert found.item() == pytest.approx(0.116667, abs=1e-6)
    in_mm = compute(build_term("boundary"), logits, label_map, spacing_mm=(1.0, 2.5))
    assert in_mm.item() == pytest.approx(2.5 * 0.7 / 6, abs=1e-6)


def test_the_error_of_the_centre_distance_is_that_of_its_expectation_in_each_class():
    labels = build_labels(
        {"a_core": (1,), "b_core": (2,), "a_border": (3,), "b_border": (4,), "a_2": (5,), "b_2": (6,)}
    )
    term = build_term("centre_distance", part_distances=(0.5, 0.0, 1.0))
    probabilities = torch.tensor(  # of background, cores, borders and second steps of both classes, at two voxels
        [[0.1, 0.3, 0.1, 0.2, 0.1, 0.2, 0.0], [0.9, 0.0, 0.0, 0.1, 0.0, 0.0, 0.0]], dtype=torch.float64
    )
    logits = probabilities.clamp_min(1e-30).log().T.reshape(1, 7, 1, 2)
    found = compute(term, logits, torch.tensor([[[5, 0]]], dtype=torch.int16), labels)
    first, second = abs(0.3 / 2 + 0.2 - 1.0), 0.1 / 2  # a should be 1, b should be 0
    assert found.item() == pytest.approx((first + second + 0 + 0) / 4, abs=1e-9)


@list_possible(*SCHEMES)
def test_gradients_are_those_of_the_formula(name, batch_dice, scheme):
    labels = SCHEMES[scheme]
    term = build_term(name, labels, batch_dice=batch_dice)
    logits, label_map = draw_case(labels, space=(2, 3))
    loss = partial(compute, term, label_map=label_map, labels=labels)
    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(),), fast_mode=True)


@list_possible("ignore", "regions and ignore")
def test_ignored_voxels_have_no_influence(name, batch_dice, scheme):
    labels = SCHEMES[scheme]
    term = build_term(name, labels, batch_dice=batch_dice)
    logits, label_map = draw_case(labels)
    loss = compute(term, logits.requires_grad_(), label_map, labels)
    loss.backward()
    ignored = (label_map == 3)[:, None].expand_as(logits)
    assert (logits.grad[ignored] == 0).all()
    assert logits.grad[~ignored].abs().sum() > 0
    extreme = logits.detach().masked_fill(ignored, 1e4)
    torch.testing.assert_close(compute(term, extreme, label_map, labels), loss.detach())


@list_possible(*SCHEMES)
def test_a_batch_of_two_equal_halves_has_the_loss_of_one_half(name, batch_dice, scheme):
    labels = SCHEMES[scheme]
    term = build_term(name, labels, batch_dice=batch_dice)
    logits, label_map = draw_case(labels, space=(4, 5, 6))
    half = compute(term, logits, label_map, labels)
    both = compute(term, logits.repeat(2, 1, 1, 1, 1), label_map.repeat(2, 1, 1, 1), labels)
    # With few voxels the smoothing, which counts once a batch, shows in the sixth digit; of clDice it is one voxel.
    torch.testing.assert_close(both, half, rtol=1e-5 if name != "cldice" or not batch_dice else 0.1, atol=1e-6)


class FakeProcesses:
    """Runs every process until the sums of all of them are known, each with those of the others from the last run."""

    def __init__(self, sizes):
        self.sizes = sizes
        self.sums = [[] for _ in sizes]

    def run(self, compute_loss):
        for _ in range(6):  # more often than a term adds up
            before, self.sums = self.sums, [[] for _ in self.sizes]
            losses = [compute_loss(rank, self._build_part(rank, before)) for rank in range(len(self.sizes))]
        return losses

    def _build_part(self, rank, before):
        def add_up(value):
            place = len(self.sums[rank])
            self.sums[rank].append(value.detach())
            others = [sums[place] for other, sums in enumerate(before) if other != rank and place < len(sums)]
            return value + sum(others)

        return BatchPart(share=self.sizes[rank] / sum(self.sizes), add_up=add_up)


@list_possible(*SCHEMES)
def test_two_processes_compute_the_loss_and_the_gradient_of_one(name, batch_dice, scheme):
    labels = SCHEMES[scheme]
    term = build_term(name, labels, batch_dice=batch_dice)
    logits, label_map = draw_case(labels, batch=3)
    whole = compute(term, logits.requires_grad_(), label_map, labels)
    (expected,) = torch.autograd.grad(whole, logits)
    parts = [slice(0, 1), slice(1, 3)]
    leaves = [logits.detach()[part].requires_grad_() for part in parts]
    losses = FakeProcesses([1, 2]).run(
        lambda rank, part: compute(term, leaves[rank], label_map[parts[rank]], labels, part=part)
    )
    for loss in losses:
        torch.testing.assert_close(loss, whole)
    gradients = [torch.autograd.grad(loss, leaf)[0] for loss, leaf in zip(losses, leaves, strict=True)]
    torch.testing.assert_close(torch.cat(gradients), expected)


@every_term
def test_reduced_precision_is_computed_in_float32(name, batch_dice):
    labels = SCHEMES["labels"]
    loss = WeightedLoss(terms=(build_term(name, labels, batch_dice=batch_dice),), labels=labels, spacing_mm=(1.0, 1.0))
    logits, label_map = draw_case(labels, dtype=torch.bfloat16)
    found = loss([logits], label_map, (1.0,), progress=1.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, loss([logits.float()], label_map, (1.0,), progress=1.0))


@list_possible(*SCHEMES)
def test_a_patch_of_one_label_has_a_finite_loss_and_gradient(name, batch_dice, scheme):
    labels = SCHEMES[scheme]
    term = build_term(name, labels, batch_dice=batch_dice)
    drawn, label_map = draw_case(labels, dtype=torch.float32)
    for label in (0, 1) if labels.ignore_label is None else (0, 1, 3):
        for scale in (1.0, 1e3):  # probabilities of exactly 0 and 1, too
            logits = (scale * drawn).requires_grad_()
            loss = compute(term, logits, torch.full_like(label_map, label), labels)
            loss.backward()
            assert torch.isfinite(loss)
            assert torch.isfinite(logits.grad).all()


@every_term
def test_every_supervised_resolution_counts_with_its_weight(name, batch_dice):
    labels = SCHEMES["labels"]
    term = build_term(name, labels, batch_dice=batch_dice)
    fine, label_map = draw_case(labels, space=(8, 8), dtype=torch.float32)
    again, _ = draw_case(labels, space=(8, 8), seed=1, dtype=torch.float32)
    coarse, _ = draw_case(labels, space=(4, 2), seed=2, dtype=torch.float32)
    loss = WeightedLoss(terms=(term,), labels=labels, spacing_mm=(1.0, 0.5))
    found = loss([fine, again, coarse], label_map, (0.5, 0.3, 0.2), progress=1.0)
    expected = [
        compute(term, fine, label_map, labels, spacing_mm=(1.0, 0.5)),
        compute(term, again, label_map, labels, spacing_mm=(1.0, 0.5)),
        compute(term, coarse, label_map[:, 1::2, 2::4].contiguous(), labels, spacing_mm=(2.0, 2.0)),
    ]
    torch.testing.assert_close(found, 0.5 * expected[0] + 0.3 * expected[1] + 0.2 * expected[2])


def test_a_weight_that_changes_follows_the_share_of_the_training():
    labels = SCHEMES["labels"]
    region = build_term("generalized_dice", labels, weight=1.0, final_weight=0.01)
    boundary = build_term("boundary", labels, weight=0.0, final_weight=0.99)
    logits, label_map = draw_case(labels, dtype=torch.float32)
    loss = WeightedLoss(terms=(region, boundary), labels=labels, spacing_mm=(1.0, 1.0))
    parts = [compute(term, logits, label_map, labels) for term in (region, boundary)]
    for progress, alpha in ((0.0, 1.0), (0.5, 0.505), (1.0, 0.01)):
        expected = alpha * parts[0] + (1 - alpha) * parts[1]
        torch.testing.assert_close(loss([logits], label_map, (1.0,), progress=progress), expected)


def test_focal_loss_without_a_power_is_weighted_cross_entropy():
    logits, label_map = draw_case(SCHEMES["labels"])
    focal, weighted = (
        compute(build_term(name, SCHEMES["labels"], **changes), logits, label_map, SCHEMES["labels"])
        for name, changes in (("focal", {"gamma": 0.0}), ("weighted_cross_entropy", {}))
    )
    torch.testing.assert_close(focal, weighted)


def measure_lines(image, *, iterations=3):
    """Mask and prediction are the same picture: the loss is 0 for whatever shape."""
    label_map = torch.as_tensor(image, dtype=torch.int16)[None]
    logits = torch.stack([-50.0 * (2 * label_map - 1), 50.0 * (2 * label_map - 1)], dim=1)
    return compute(build_term("cldice", skeleton_iterations=iterations), logits, label_map).item()


def test_cldice_of_a_perfect_prediction_is_0():
    tube = np.zeros((9, 20))
    tube[3:6, 2:18] = 1
    assert measure_lines(tube) == pytest.approx(0, abs=1e-6)
    assert measure_lines(np.stack([tube] * 5)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("axes", [2, 3])
def test_cldice_of_half_a_tube_counts_centre_lines(axes):
    wide, half = np.zeros((7, 24)), np.zeros((7, 24))
    wide[2:5, :] = 1
    half[2:5, :12] = 1
    if axes == 3:
        empty = np.zeros_like(wide)
        wide, half = (np.stack([empty, empty, image, image, image, empty, empty]) for image in (wide, half))
    label_map = torch.as_tensor(wide, dtype=torch.int16)[None]
    inside = 50.0 * (2 * torch.as_tensor(half, dtype=torch.float32)[None] - 1)
    found = compute(build_term("cldice", skeleton_iterations=2), torch.stack([-inside, inside], dim=1), label_map)
    sensitivity = (12 + 1) / (24 + 1)  # of 24 voxels of the centre line 12 are predicted, with the smoothing of 1
    assert found.item() == pytest.approx(1 - 2 * sensitivity / (1 + sensitivity), abs=1e-6)
