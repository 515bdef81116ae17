"""Training that also learns from the answers of a teacher."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from torch.nn import functional

from autoseg.errors import RunError, TrainingError
from autoseg.networks import build_network
from autoseg.networks.weights import hash_weights, write_weights
from autoseg.plan.objectives import AdversarialObjective, DetectionObjective
from autoseg.run_folder import FoldFolder
from autoseg.runtime.distributed import BatchPart
from autoseg.training.checkpoint import read_checkpoint, read_description
from autoseg.training.data.batch import Batch
from autoseg.training.objectives import build_objective
from autoseg.training.objectives.distillation import (
    Distillation,
    compare_distributions,
    compare_scores,
    compute_teacher_weight,
)
from autoseg.training.objectives.segmentation import TEACHER_TEMPERATURE
from autoseg.training.options import Length, TrainingOptions
from autoseg.training.step import build_learner, read_teacher, run_training_step, run_validation_step
from autoseg.training.teacher import Teacher
from autoseg.training.trainer import train

CPU = torch.device("cpu")
LABELS = build_labels({"one": (1,), "two": (2,)}, ignore_value=3)
REGIONS = build_labels({"all": (1, 2, 3), "two": (2, 3), "three": (3,)}, region_write_values=(1, 2, 3), ignore_value=4)
DETECTION = DetectionObjective(
    dilation_mm=1.0,
    cells_per_object=13,
    score_power=1.0,
    overlap_power=6.0,
    class_weight=2.0,
    negative_weight=0.75,
    focusing_power=2.0,
    box_loss="giou",
    box_weight=2.5,
    bin_weight=0.5,
)
STRIDES = ((1, 1), (2, 2), (2, 2))


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a tiny training."""
    monkeypatch.setattr("autoseg.training.monitoring.history_files.write_progress_picture", lambda *_, **__: None)


@pytest.fixture
def plan_family(plan_configuration):
    """Plans a tiny network of two channels and three outputs, of a detector with its objective."""

    def build(family: str, **changes):
        plan = plan_configuration(dimensions=2)
        if family == "detector":
            changes = {"strides": STRIDES, **changes}
        network = build_small_network_plan(family, 2, **changes)
        if family == "detector":
            plan = plan.model_copy(update={"training": plan.training.model_copy(update={"objective": DETECTION})})
        return plan.model_copy(update={"network": network})

    return build


@pytest.fixture
def teach(tmp_path: Path):
    """Writes a network with random weights of its own."""

    def build(plan, seed: int = 7) -> Teacher:
        path = tmp_path / f"teacher_{seed}.safetensors"
        write_weights(path, build_network(plan.network, torch.Generator().manual_seed(seed)).state_dict())
        return Teacher(checkpoint=path, digest=hash_weights(path), plan=plan.network)

    return build


def draw_batch(classes: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    label_map = torch.randint(classes, (2, 16, 16), generator=generator).to(torch.int16)
    return Batch(image=torch.randn(2, 2, 16, 16, generator=generator), label_map=label_map)


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 1.0), (0.5, 0.505), (1.0, 0.01)])
def test_the_weight_of_a_teacher_falls_along_a_cosine(progress: float, weight: float) -> None:
    assert compute_teacher_weight(progress) == pytest.approx(weight)


def test_divergences_have_the_values_of_their_formulas_and_are_0_for_equal_answers() -> None:
    found, taught = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])
    for temperature in (1.0, 2.0, 20.0):
        sure = 1 / (1 + math.exp(-2 / temperature))
        expected = temperature**2 * (sure * math.log(sure / (1 - sure)) + (1 - sure) * math.log((1 - sure) / sure))
        assert compare_distributions(found, taught, temperature).item() == pytest.approx(expected, rel=1e-4)
        single = compare_scores(torch.tensor(-2.0), torch.tensor(2.0), temperature).item()
        assert single == pytest.approx(temperature**2 * (2 * sure - 1) * 2 / temperature, rel=1e-4)
        assert compare_distributions(taught, taught, temperature).item() == 0
        assert compare_scores(taught, taught, temperature).abs().max() < 1e-4
    torch.testing.assert_close(  # two options are one score, the difference of their logits
        compare_distributions(found, taught, 3.0), compare_scores(found[1] - found[0], taught[1] - taught[0], 3.0)
    )


@pytest.mark.parametrize("labels", [LABELS, REGIONS], ids=["labels", "regions"])
def test_a_segmentation_learns_from_all_voxels_but_ignored_ones(plan_family, teach, labels) -> None:
    plan, batch = plan_family("plain_unet"), draw_batch(labels.ignore_label + 1)
    learner = build_learner(plan, labels, device=CPU, seed=0, teacher=teach(plan))
    assert isinstance(learner.objective, Distillation)
    learner.train()
    learner.set_progress(0.5)
    plain = build_objective(plan, labels, learner.network, part=BatchPart(), seed=0)
    loss, logits = learner.compute_loss(batch)
    valid = batch.label_map != labels.ignore_label
    with torch.no_grad():
        own, other = (values.movedim(1, -1)[valid] / TEACHER_TEMPERATURE for values in (logits, _answer(plan, batch)))
    if labels.has_regions:
        wanted = other.sigmoid()
        entropies = [functional.binary_cross_entropy_with_logits(each, wanted) for each in (own, other)]
        divergence = entropies[0] - entropies[1]
    else:
        divergence = functional.kl_div(own.log_softmax(1), other.log_softmax(1), log_target=True, reduction="batchmean")
    expected = plain(learner.call_network, batch)[0] + 0.505 * TEACHER_TEMPERATURE**2 * divergence
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def _answer(plan, batch: Batch) -> torch.Tensor:
    network = build_network(plan.network, torch.Generator().manual_seed(7)).eval()
    return network(batch.image)[0]


def test_a_detector_learns_scores_of_usable_cells_and_bins_where_the_teacher_is_sure(plan_family, teach) -> None:
    plan, batch = plan_family("detector", probabilities="sigmoid"), draw_batch(5)
    learner = build_learner(plan, REGIONS, device=CPU, seed=0, teacher=teach(plan))
    taught = read_teacher(teach(plan), CPU)(batch.image, True)
    found = list(learner.network.eval()(batch.image, True))
    part = learner.objective.objective
    usable = (batch.label_map != 4)[(slice(None), *found[4].long().unbind(dim=1))]
    sure = torch.where(usable, taught[1].sigmoid().amax(-1), 0.0)
    scores = compare_scores(found[1], taught[1], 20.0)[usable].sum()
    bins = (compare_distributions(found[2], taught[2], 20.0).mean(dim=(2, 3)) * sure).sum()
    expected = (2 * scores + 0.5 * bins) / sure.sum().clamp(min=1)
    assert part.compare_with_teacher(tuple(found), taught, batch).item() == pytest.approx(expected.item(), rel=1e-5)
    found[1] = torch.where(usable[..., None], found[1], 50.0)
    assert part.compare_with_teacher(tuple(found), taught, batch).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("family", ["plain_unet", "detector"])
def test_a_teacher_is_asked_in_training_alone_and_is_no_part_of_the_state(plan_family, teach, family: str) -> None:
    plan, batch = plan_family(family), draw_batch(3)
    plain, taught = (build_learner(plan, LABELS, device=CPU, seed=0, teacher=one) for one in (None, teach(plan)))
    first, same = plain.network.state_dict(), taught.network.state_dict()
    assert all(torch.equal(value, same[name]) for name, value in first.items())  # nothing else is drawn
    assert plain.objective.state_dict() == taught.objective.state_dict() == {}
    assert not list(taught.objective.parameters())
    for learner in (plain, taught):
        learner.train(is_training=False)
    assert run_validation_step(plain, batch).loss == run_validation_step(taught, batch).loss
    (teacher,) = taught.objective._frozen
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    for learner in (plain, taught):
        learner.train()
    assert run_training_step(plain, batch) < run_training_step(taught, batch)
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert taught.objective.find_capture_problem() == "the weight of the teacher changes from step to step"


def test_parts_of_a_batch_add_up(plan_family, teach) -> None:
    sums: list[float] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        sums.append(value.item())
        return value

    for family in ("plain_unet", "detector"):
        plan, batch = plan_family(family), draw_batch()
        network = build_network(plan.network, torch.Generator().manual_seed(0)).eval()
        teacher = read_teacher(teach(plan), CPU)
        further = (True,) if family == "detector" else ()
        outputs = [(one(batch.image, *further)) for one in (network, teacher)]
        whole = build_objective(plan, LABELS, network, part=BatchPart(), seed=0).compare_with_teacher(*outputs, batch)
        divided = build_objective(plan, LABELS, network, part=BatchPart(share=0.5, add_up=keep), seed=0)
        sums.clear()
        for sample in (0, 1):
            cut = slice(sample, sample + 1)
            own, other = ([*(value[cut] for value in found[:4]), *found[4:]] for found in outputs)
            divided.compare_with_teacher(
                tuple(own), tuple(other), Batch(image=batch.image[cut], label_map=batch.label_map[cut])
            )
        firsts, seconds = sums[0] + sums[2], sums[1] + sums[3]
        ratio = firsts / seconds if family == "detector" else seconds / firsts
        assert whole.item() == pytest.approx(ratio, rel=1e-5)


@pytest.fixture
def start(plan_configuration, training_data, tmp_path: Path, teach):
    """Trains for epochs of two iterations."""
    plan = plan_configuration(epochs=2, iterations_per_epoch=2, validation_iterations_per_epoch=1)
    teacher = teach(plan)

    def run(folder: str, *, epochs: int, is_taught: bool = True, **changes) -> Path:
        options = TrainingOptions(device=CPU, seed=0, workers=0, seconds_between_checkpoints=0.0)
        if is_taught:
            options = replace(options, teacher=teacher, teacher_digest=teacher.digest)
        output = FoldFolder(tmp_path / folder)
        events = train(plan, training_data, output=output, options=replace(options, **changes))
        for event in events:
            if getattr(getattr(event, "record", None), "epoch", None) == epochs - 1:
                events.close()
        return output.root

    return run


def test_a_taught_training_is_resumed_bit_for_bit_with_the_same_teacher_alone(start, teach, plan_configuration) -> None:
    whole = start("whole", epochs=2) / "checkpoint_final.safetensors"
    start("parts", epochs=1)
    with pytest.raises(
        TrainingError,
        match=r"learns from a teacher, which is no longer where it was, or was trained anew; give",
    ):
        start("parts", epochs=2, teacher=None)
    other = teach(plan_configuration(), seed=8)
    with pytest.raises(TrainingError, match=r"the teacher \(--teacher\) changed"):
        start("parts", epochs=2, teacher=other, teacher_digest=other.digest)
    parts = start("parts", epochs=2) / "checkpoint_final.safetensors"
    tensors = [read_checkpoint(path).tensors for path in (whole, parts)]
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    alone = read_checkpoint(start("alone", epochs=2, is_taught=False) / "checkpoint_final.safetensors")
    assert any(not torch.equal(value, tensors[0][name]) for name, value in alone.tensors.items())
    assert alone.description.identity.teacher_digest is None
    assert read_description(whole).identity.teacher_digest is not None
    start("whole", epochs=2, teacher=None)  # a finished training needs no teacher,
    with pytest.raises(TrainingError, match="learns from a teacher"):  # one that is extended does
        start("whole", epochs=4, teacher=None, length=Length(more_epochs=1))


def find_problem(plan, other) -> str | None:
    return Teacher(checkpoint=Path("teacher"), digest="", plan=other.network).find_problem(plan)


def test_teachers_whose_answers_cannot_be_compared_are_refused_by_name(plan_family) -> None:
    unet, detector = plan_family("plain_unet"), plan_family("detector")
    assert find_problem(unet, plan_family("residual_encoder_unet")) is None
    assert find_problem(detector, plan_family("detector", features_per_stage=(4, 8, 8))) is None
    adversarial = AdversarialObjective(
        adversarial_weight=0.1, discriminator_features=(4,), discriminator_strides=((2, 2),)
    )
    training = unet.training.model_copy(update={"objective": adversarial})
    for plan, teacher, words in (
        (unet.model_copy(update={"training": training}), unet, "the objective 'adversarial' compares nothing"),
        (unet, plan_family("plain_unet", output_channels=4), "expected 2 dimensions, 2 input and 3 output channels"),
        (unet, detector, "expected the family plain_unet, found a detector with strides 1 x 1, 2 x 2"),
        (detector, plan_family("detector", distance_bins=1), "levels, 1 bins"),
        (unet.model_copy(update={"patch_voxels": (6, 16)}), unet, "the patch of 6 x 16 voxels is no multiple"),
    ):
        assert words in (find_problem(plan, teacher) or "")


def test_weights_that_do_not_fit_the_plan_beside_them_are_refused(plan_family, teach) -> None:
    teacher = replace(teach(plan_family("plain_unet")), plan=plan_family("detector").network)
    with pytest.raises(RunError, match="does not fit the plan beside it"):
        read_teacher(teacher, CPU)
