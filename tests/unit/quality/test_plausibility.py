"""How well a label autoencoder reconstructs a predicted label map."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.plans import build_configuration, build_plan
from builders.quality import build_features, draw_features
from builders.threads import use_one_thread
from torch import nn

from autoseg.geometry import Grid
from autoseg.inference.execution.choice import Setting, prepare_networks
from autoseg.inference.model import SegmentationModel
from autoseg.inference.options import ONE_IMAGE
from autoseg.networks import build_network
from autoseg.plan.objectives import LatentDiffusionObjective
from autoseg.plan.stages import BoundaryOfPreviousStage
from autoseg.preprocessing.case import CaseGeometry
from autoseg.quality.distribution import learn_distribution, list_values
from autoseg.quality.estimates import CaseQuality, estimate_case
from autoseg.quality.features import NetworkFeatures
from autoseg.quality.plausibility import list_windows, measure_plausibility
from autoseg.workflows.cases.network_features import average_features, measure_network_features

_one_thread = pytest.fixture(autouse=True)(use_one_thread)

CPU = torch.device("cpu")
LABELS = build_labels({"a": (1,), "b": (2,)})
REGIONS = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
LATENT = LatentDiffusionObjective(
    latent_weight=1.0, noise_weight=1.0, last_step_fraction=0.5, segmentation_weight=0.0, autoencoder_iterations=3
)
NAMES = {"channel_names": ("MRI",), "class_names": ("organ",)}
SHAPE = (5, 9, 7)
PATCHES = {"2D": (4, 4), "3D": (2, 4, 4), "a patch that is larger": (8, 16, 8)}


class Codec(nn.Module):
    """An autoencoder that answers what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.seen = answer, []

    def forward(self, masks):
        self.seen.append(masks)
        return (self.answer(masks) - 0.5,)


def copy_masks(masks):
    return masks


def answer_background(masks):
    answer = torch.zeros_like(masks)
    answer[:, 0] = 1
    return answer


def draw_logits(outputs=3, shape=SHAPE):
    return torch.randn((outputs, *shape), generator=torch.Generator().manual_seed(0))


def measure(logits, answer, patch=(2, 4, 4), labels=LABELS, **changes):
    configuration = build_configuration(patch).model_copy(update=changes)
    return measure_plausibility(logits, Codec(answer), CPU, configuration=configuration, labels=labels)


def make_logits(label_map):
    return 10.0 * torch.stack([torch.tensor(label_map) == label for label in range(3)]).float()


@pytest.mark.parametrize("patch", PATCHES.values(), ids=PATCHES)
@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_an_autoencoder_that_copies_gives_1_and_one_that_answers_nothing_0(patch, labels) -> None:
    logits = draw_logits(2 if labels.has_regions else 3)
    assert measure(logits, copy_masks, patch, labels) == 1
    assert measure(logits, torch.zeros_like if labels.has_regions else answer_background, patch, labels) == 0


def test_the_mean_dice_is_that_of_a_small_label_map_by_hand() -> None:
    label_map = [[[1, 1, 1, 0], [0, 2, 0, 0]]]

    def lose_first_column_and_add_one(masks):
        answer = masks.clone()
        answer[..., 0] = torch.tensor([1.0, 0, 0])[:, None]  # one of three voxels of the first class
        answer[..., 1, 3] = torch.tensor([0.0, 0, 1])  # two voxels of the second in place of one
        return answer

    found = measure(make_logits(label_map), lose_first_column_and_add_one, patch=(2, 4))
    assert found == pytest.approx((2 * 2 / (3 + 2) + 2 * 1 / (1 + 2)) / 2)


def test_a_class_that_is_not_predicted_does_not_count_nor_is_background_looked_at() -> None:
    nothing, codec = make_logits(np.zeros(SHAPE, int)), Codec(copy_masks)
    configuration = build_configuration((2, 4, 4))
    assert measure_plausibility(nothing, codec, CPU, configuration=configuration, labels=LABELS) is None
    assert codec.seen == []
    one = np.zeros((2, 4, 8), int)
    one[:, 1:3, 5:7] = 1
    assert measure_plausibility(make_logits(one), codec, CPU, configuration=configuration, labels=LABELS) == 1
    assert [tuple(seen.shape) for seen in codec.seen] == [(1, 3, 2, 4, 4)]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 9, 7), (5, 4, 13)])
def test_every_voxel_counts_in_one_window(shape) -> None:
    count = np.zeros(shape, int)
    for place, counted in list_windows(shape, (2, 4, 5)):
        count[place][counted] += 1
        assert all(part.start >= 0 and part.stop <= extent for part, extent in zip(place, shape, strict=True))
    assert (count == 1).all()


def test_windows_have_the_extents_of_the_patch_and_slices_come_in_a_batch() -> None:
    codec, configuration = Codec(copy_masks), build_configuration((4, 4))
    measure_plausibility(draw_logits(), codec, CPU, configuration=configuration, labels=LABELS)
    assert {tuple(seen.shape) for seen in codec.seen} == {(5, 3, 4, 4)}
    codec, large = Codec(copy_masks), build_configuration((8, 16, 8))
    measure_plausibility(draw_logits(), codec, CPU, configuration=large, labels=LABELS)
    (seen,) = codec.seen
    assert tuple(seen.shape) == (1, 3, 8, 16, 8)
    assert torch.equal(seen.sum(1), torch.ones(1, 8, 16, 8))  # also the padding is one class, background
    assert seen[0, 0, 5:].all()


def test_slices_across_all_axes_count_where_the_network_sees_them() -> None:
    def lose_squares(masks):
        return answer_background(masks) if masks.shape[0] == 2 else masks  # slices across the axis of two voxels

    label_map = np.ones((2, 4, 4), int)
    assert measure(make_logits(label_map), lose_squares, (4, 4)) == 0
    assert measure(make_logits(label_map), lose_squares, (4, 4), plane_axes=(0, 1)) == pytest.approx(2 / 3)


def test_a_network_that_sees_one_class_at_a_time_has_an_autoencoder_of_one() -> None:
    stage = BoundaryOfPreviousStage(configuration="first", overlap_limit=0.5)

    def lose_small_classes(masks):
        assert masks.shape[1] == 2, "outside and inside"
        return masks if masks[:, 1].sum() > 2 else answer_background(masks)

    label_map = [[[1, 1, 1, 0], [0, 2, 0, 0]]]
    for labels, logits in ((LABELS, make_logits(label_map)), (REGIONS, make_logits(label_map)[1:] - 5)):
        assert measure(logits, lose_small_classes, (2, 4), labels, previous_stage=stage) == 0.5


def build_geometry(shape):
    return CaseGeometry(
        grid=Grid(shape_voxels=shape, spacing_mm=(1.0, 1.0, 1.0)),
        orientation=None,
        axis_permutation=(0, 1, 2),
        crop_box=tuple((0, extent) for extent in shape),
        cropped_shape_voxels=shape,
        resampled_shape_voxels=shape,
        cropped_spacing_mm=(1.0, 1.0, 1.0),
        target_spacing_mm=(1.0, 1.0, 1.0),
    )


def plan_patches():
    return build_configuration((8, 8), data_of="2d")


def prepare(family, *, dtype="float32", folds=1):
    """A model with random weights that predicts patches of 8 x 8 voxels."""
    network = build_small_network_plan(family, 2, input_channels=1)
    configuration = plan_patches().model_copy(update={"network": network})
    if family == "latent_diffusion":
        training = configuration.training.model_copy(update={"objective": LATENT})
        configuration = configuration.model_copy(update={"training": training})
    networks = [build_network(network, torch.Generator().manual_seed(fold)) for fold in range(folds)]
    kept = [copy.deepcopy(entry.label_autoencoder) for entry in networks]
    setting = Setting(configuration=configuration, device=CPU, dtype=dtype)
    prepared = prepare_networks(networks, setting, choice="eager", workload=ONE_IMAGE)
    model = SegmentationModel(
        plan=build_plan({"2d": configuration}, labels=LABELS),
        configuration="2d",
        folds=tuple(map(str, range(folds))),
        networks=prepared.networks,
        device=CPU,
        dtype=dtype,
        label_autoencoders=prepared.label_autoencoders,
    )
    return model, kept


def measure_models(*models):
    image, logits = np.ones((1, *SHAPE), np.float32), draw_logits()
    count = max(1, len(models))
    plan = build_plan({"2d": plan_patches()}, labels=LABELS)
    return measure_network_features([image] * count, [logits] * count, build_geometry(SHAPE), plan, models=models)


def test_the_autoencoders_of_all_folds_are_asked_in_single_precision() -> None:
    model, kept = prepare("latent_diffusion", folds=2)
    reduced, _ = prepare("latent_diffusion", dtype="bfloat16", folds=2)
    found = measure_models(model).plausibility
    configuration = model.configuration_plan
    alone = [
        measure_plausibility(draw_logits(), own.eval(), CPU, configuration=configuration, labels=LABELS) for own in kept
    ]
    assert found == np.mean(alone)
    assert 0 < found < 1
    assert alone[0] != alone[1]
    assert measure_models(reduced).plausibility == found  # the same, however the network computes, and every time


def test_of_an_ensemble_the_members_with_an_autoencoder_count() -> None:
    latent, plain = measure_models(prepare("latent_diffusion")[0]), measure_models(prepare("plain_unet")[0])
    together = measure_models(prepare("latent_diffusion")[0], prepare("plain_unet")[0])
    assert together.plausibility == latent.plausibility == average_features([latent, plain]).plausibility


class FullOnce(Codec):
    """An autoencoder whose first device has no memory."""

    def __init__(self):
        super().__init__(copy_masks)
        self.places = []

    def to(self, device):
        """Only notes where it is."""
        self.places.append(device.type)
        if device.type != "cpu":
            raise torch.OutOfMemoryError
        return self


def test_a_device_without_memory_leaves_the_plausibility_to_the_cpu(caplog) -> None:
    model, full = prepare("plain_unet")[0], FullOnce()
    found = measure_models(replace(model, device=torch.device("meta"), label_autoencoders=(full,)))
    assert (found.plausibility, full.places) == (1.0, ["meta", "cpu"])
    assert "out of memory; measuring the plausibility on the CPU" in caplog.text


def test_documents_of_networks_without_an_autoencoder_are_as_before() -> None:
    model, _ = prepare("plain_unet")
    assert model.label_autoencoders == ()
    features = measure_models(model)
    assert features == measure_models()
    assert list(json.loads(features.model_dump_json())) == ["image", "probabilities"]
    known = learn_distribution(draw_features(100), np.arange(100) % 5, **NAMES)
    assert "plausibility" not in {entry.measure for entry in known.ranges}
    quality = estimate_case("a", "a.nii.gz", build_features(), classes=None, distribution=known, **NAMES)
    assert list(json.loads(quality.model_dump_json())) == ["name", "label_map", "flags", "classes"]


def test_documents_hold_the_plausibility_and_are_read_with_and_without() -> None:
    features = build_features(plausibility=0.75)
    quality = estimate_case("a", "a.nii.gz", features, classes=None, distribution=None, **NAMES)
    assert json.loads(quality.model_dump_json())["plausibility"] == 0.75
    for part, kind in ((features.network, NetworkFeatures), (quality, CaseQuality)):
        content = json.loads(part.model_dump_json())
        assert kind.model_validate(content) == part
        del content["plausibility"]
        assert kind.model_validate(content).plausibility is None


def test_a_label_map_that_the_autoencoder_cannot_describe_is_flagged() -> None:
    values = 0.95 + 0.01 * np.random.default_rng(0).normal(size=100)
    cases = [
        entry.model_copy(update={"network": entry.network.model_copy(update={"plausibility": float(value)})})
        for entry, value in zip(draw_features(100), values, strict=True)
    ]
    known = learn_distribution(cases, np.arange(100) % 5, **NAMES)
    assert known.is_calibrated

    def find(plausibility):
        features = build_features(plausibility=plausibility)
        return known.find_flags(list_values(features, known.thumbnails, **NAMES))

    (flag,) = find(0.5)
    assert flag.kind == "plausibility"
    assert flag.deviation > 1
    assert (
        "label map: reconstructed by the label autoencoder with a Dice of 0.5, in 100 training cases 0.9" in flag.text
    )
    assert find(0.95) == find(1.0) == find(None) == ()
