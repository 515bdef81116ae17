"""Steps of training and validation on a simulated GPU: none waits for the device, or mixes its tensors with others."""

import pytest
import torch
from builders.labels import build_labels
from builders.networks import SMALL_NETWORKS, build_small_network_plan
from builders.plans import build_configuration
from builders.simulated_cuda import DEVICE, simulate_cuda
from builders.threads import use_one_thread

from autoseg.networks import build_network
from autoseg.networks.weights import hash_weights, write_weights
from autoseg.plan.losses import LOSS_TERMS
from autoseg.plan.objectives import OBJECTIVE_PLANS
from autoseg.training.data.batch import Batch
from autoseg.training.execution import TrainingExecution
from autoseg.training.losses import LOSSES
from autoseg.training.objectives import OBJECTIVES
from autoseg.training.optimization.optimizer import OPTIMIZERS
from autoseg.training.step import build_learner, launch_training_step, launch_validation_step
from autoseg.training.teacher import Teacher

LABELS = build_labels({"one": (1,), "two": (2,)}, ignore_value=3)
PLAIN = build_labels({"one": (1,), "two": (2,)})
REGIONS = build_labels({"all": (1, 2, 3), "two": (2, 3), "three": (3,)}, region_write_values=(1, 2, 3), ignore_value=4)
WEIGHTS = {"background_weights": (1.0,), "class_weights": (0.5, 2.0)}
LOSS_FIELDS = {
    "dice": {"batch_dice": True},
    "cross_entropy": {},
    "weighted_cross_entropy": WEIGHTS,
    "focal": WEIGHTS | {"gamma": 2.0},
    "border_weighted_cross_entropy": WEIGHTS | {"border_weight": 10.0, "border_sigma_mm": 5.0},
    "squared_dice": {"batch_dice": True},
    "generalized_dice": {"batch_dice": False, "final_weight": 1.0},
    "tversky": {
        "batch_dice": False,
        "false_positive_weight": 0.3,
        "false_negative_weight": 0.7,
        "exponent": 0.75,
    },
    "exponential_logarithmic": WEIGHTS
    | {"batch_dice": True, "dice_weight": 0.8, "cross_entropy_weight": 0.2}
    | {"dice_exponent": 0.3, "cross_entropy_exponent": 0.3},
    "boundary": {"final_weight": 1.0},
    "cldice": {"batch_dice": False, "skeleton_iterations": 2},
    "centre_distance": {"part_distances": (1.0, 0.25)},
}
LATENTS = {"last_step_fraction": 0.5, "autoencoder_iterations": 3}
CELLS = {"cells_per_object": 13, "score_power": 1.0, "overlap_power": 6.0, "negative_weight": 0.75}
CELLS |= {"focusing_power": 2.0, "box_loss": "giou", "box_weight": 2.5, "class_weight": 1.0}
STRIDES = ((1, 1), (2, 2), (2, 2))
KERNELS = ((3, 3),) * 3
RANGE = {"mean": 0.0, "std": 1.0, "lowest": -4.0, "highest": 8.0}
OBJECTIVE_FIELDS = {
    "segmentation": {},
    "reconstruction": {},
    "latent_diffusion": {"latent_weight": 1.0, "noise_weight": 1.0, "segmentation_weight": 0.5, **LATENTS},
    "denoising": {
        "estimate_weight": 1.0,
        "segmentation_weight": 0.5,
        "last_step_fraction": 0.5,
        "image_dropout": 0.5,
    },
    "image_denoising": {"channels": (RANGE,) * 3, "mask_dropout": 0.5},
    "shape_prior": {
        "shape_prior_weight": 0.5,
        "autoencoder": build_small_network_plan("label_autoencoder", 2, input_channels=3),
        "autoencoder_iterations": 3,
    },
    "adversarial": {
        "adversarial_weight": 0.5,
        "discriminator_features": (4, 6),
        "discriminator_strides": ((2, 2), (2, 1)),
    },
    "point_rend": {"candidates_per_point": 3, "uncertain_fraction": 0.75, "point_weight": 1.0},
    "detection": {**CELLS, "dilation_mm": 1.0, "bin_weight": 0.5},
    "mask_rcnn": {**CELLS, "offset_weight": 1.0, "mask_weight": 1.0},
}
OWN_OBJECTIVES = {
    "label_autoencoder": "reconstruction",
    "latent_diffusion": "latent_diffusion",
    "diffusion_unet": "denoising",
    "point_rend": "point_rend",
    "detector": "detection",
    "mask_rcnn": "mask_rcnn",
}
"""Of families that no other objective trains."""
CHANGES = {
    "detector": {"strides": STRIDES, "kernel_sizes": KERNELS},
    "mask_rcnn": {"strides": STRIDES, "kernel_sizes": KERNELS},
    "label_autoencoder": {"input_channels": 3},
}
MEANT = {
    "fill_ignored_voxels": "the nearest label is found on the CPU",
    "compute_signed_distances_mm": "so is the nearest boundary",
    "compute_border_exponentials": "so are the nearest objects",
    "find_object_targets": "objects are found there",
    "_find_targets": "and those of a detector",
}
"""Functions that read a label map, once a step, and why."""

_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def plan_with(network, objective=None, **training):
    name = objective or OWN_OBJECTIVES.get(network.family, "segmentation")
    fields = OBJECTIVE_FIELDS[name] | ({"bin_weight": 0.0} if getattr(network, "distance_bins", 0) == 1 else {})
    planned = OBJECTIVE_PLANS[name].model_validate({"name": name, **fields})
    plan = build_configuration((16,) * network.dimensions, training=training)
    update = {"network": network, "training": plan.training.model_copy(update={"objective": planned})}
    return plan.model_copy(update=update)


def draw_batch(network, labels):
    """Images of an extent that the network takes, with labels of all classes and ignored voxels, on the device."""
    generator = torch.Generator().manual_seed(1)
    margins, divisors = network.margin_voxels, network.patch_divisors
    extents = [
        (count + -(-2 * margin // divisor)) * divisor
        for count, margin, divisor in zip((3, 4, 4), margins, divisors, strict=False)
    ]
    shape, highest = (2, *extents), labels.ignore_label or max(labels.foreground_labels)
    label_map = torch.randint(highest + 1, shape, generator=generator).to(torch.int16)
    image = torch.randn((2, network.input_channels, *extents), generator=generator)
    return Batch(image=image, label_map=label_map).pin_memory().move_to(DEVICE)


def find_waits(plan, labels=LABELS, *, dtype="float32", memory_format=torch.contiguous_format, **options):
    """Lists what a GPU would refuse or wait for in a step of training, after a first one, and one of validation."""
    with simulate_cuda() as findings:
        execution = TrainingExecution(memory_format=memory_format)
        learner = build_learner(
            plan, labels, device=DEVICE, seed=0, dtype=dtype, execution=execution, announce=lambda _: None, **options
        )
        batch = draw_batch(plan.network, labels)
        for count in range(2):
            findings.found.clear()
            findings.operations = 0
            torch.manual_seed(count)
            learner.train()
            learner.set_learning_rate(0.1)
            learner.set_progress(0.5)
            loss = launch_training_step(learner, batch)
        assert findings.operations > 100
        learner.train(is_training=False)
        with learner.averaged_weights():
            launch_validation_step(learner, batch)
    assert loss.device == DEVICE
    assert torch.isfinite(loss.held)
    return sorted({found for found in findings.found if not is_meant(found)})


def is_meant(found):
    return found.startswith("a copy to the CPU") and found.endswith(tuple(f" {name})" for name in MEANT))


def test_tables_are_complete():
    assert LOSS_FIELDS.keys() == LOSSES.keys() == LOSS_TERMS.keys()
    assert OBJECTIVE_FIELDS.keys() == OBJECTIVES.keys()


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_no_step_of_a_network_waits(name):
    dimensions = 3 if name == "hybrid_2d_3d" else 2
    changes = CHANGES.get(name.split()[0], {})
    network = build_small_network_plan(name, dimensions, **changes)
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    labels = REGIONS if getattr(network, "probabilities", "") == "sigmoid" else LABELS
    plan = plan_with(network, weight_average_decay=0.9)
    assert find_waits(plan, labels, dtype="float16", memory_format=formats[dimensions]) == []


@pytest.mark.parametrize("scheme", ["labels", "regions"])
@pytest.mark.parametrize("name", LOSSES)
def test_no_loss_term_waits(name, scheme):
    fields = dict(LOSS_FIELDS[name])
    labels = PLAIN if name == "cldice" else LABELS
    if scheme == "regions":
        if name in ("centre_distance", "border_weighted_cross_entropy", "cldice"):
            pytest.skip("its formula is not for regions")
        labels = REGIONS
        if "class_weights" in fields:
            fields |= {"background_weights": (1.0,) * 3, "class_weights": (0.5, 2.0, 1.0)}
    network = build_small_network_plan("plain_unet", 2)
    assert find_waits(plan_with(network, losses=({"name": name, "weight": 1.0, **fields},)), labels) == []


@pytest.mark.parametrize("scheme", ["labels", "regions"])
@pytest.mark.parametrize("name", ["shape_prior", "adversarial"])
def test_no_further_objective_waits(name, scheme):
    plan = plan_with(build_small_network_plan("plain_unet", 2), name)
    assert find_waits(plan, {"labels": LABELS, "regions": REGIONS}[scheme]) == []


def test_no_denoiser_of_images_waits():
    small = build_small_network_plan("diffusion_unet", 2, estimate="image", sampler_steps=3)
    denoiser = small.denoiser.model_copy(update={"input_channels": 6})  # three channels, and as many masks
    network = small.model_copy(update={"input_channels": 3, "denoiser": denoiser})
    assert find_waits(plan_with(network, "image_denoising"), PLAIN) == []


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_optimizer_waits_but_the_one_that_is_never_captured_in_float16(name, dtype):
    plan = plan_with(build_small_network_plan("plain_unet", 2), optimizer=name, momentum=0.9)
    read = [] if (name, dtype) != ("rmsprop", "float16") else ["_local_scalar_dense waits for the device"]
    assert [found.partition(" (")[0] for found in find_waits(plan, dtype=dtype)] == read


@pytest.mark.parametrize("scheme", ["labels", "regions"])
def test_no_teacher_waits(tmp_path, scheme):
    plan = plan_with(build_small_network_plan("plain_unet", 2))
    path = tmp_path / "teacher.safetensors"
    write_weights(path, build_network(plan.network).state_dict())
    teacher = Teacher(plan=plan.network, checkpoint=path, digest=hash_weights(path))
    assert find_waits(plan, {"labels": LABELS, "regions": REGIONS}[scheme], teacher=teacher) == []
