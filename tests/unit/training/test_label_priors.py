"""Training by latents of label maps: autoencoders, latent diffusion, the anatomical constraint."""

import pytest
import torch
from builders.clocks import Clock
from builders.labels import build_labels
from builders.networks import build_small_network_plan
from builders.progress import skip_drawing
from builders.threads import use_one_thread

from autoseg.errors import DocumentError
from autoseg.networks import build_network, read_weights, write_weights
from autoseg.networks.families.latent_diffusion import LatentDiffusion
from autoseg.networks.parts.diffusion.process import tile
from autoseg.plan import ConfigurationPlan
from autoseg.plan import label_prior as plan_label_prior
from autoseg.plan.label_prior import list_changed_fields, plan_autoencoder_training, refine_latents
from autoseg.plan.losses import SegmentationObjective
from autoseg.plan.network import LatentDiffusionPlan
from autoseg.plan.objectives import LatentDiffusionObjective, ShapePriorObjective
from autoseg.run_folder import FoldFolder
from autoseg.runtime.distributed import BatchPart
from autoseg.training.budget.pace import Budget
from autoseg.training.calibration import measure_step_times
from autoseg.training.data.batch import Batch
from autoseg.training.losses.targets import build_output_masks, fill_ignored_voxels
from autoseg.training.monitoring.events import EpochDone
from autoseg.training.monitoring.history import EpochRecord
from autoseg.training.options import TrainingOptions
from autoseg.training.step import build_learner, run_training_step, run_validation_step
from autoseg.workflows.train import label_prior
from autoseg.workflows.train.label_prior import describe_reconstruction, train_label_autoencoder

CPU = torch.device("cpu")
LABELS = build_labels({"one": (1,), "two": (2,)})
LATENT = LatentDiffusionObjective(
    latent_weight=1.0, noise_weight=1.0, last_step_fraction=0.5, segmentation_weight=0.0, autoencoder_iterations=3
)

_no_drawing = pytest.fixture(autouse=True)(skip_drawing)
_one_thread = pytest.fixture(autouse=True)(use_one_thread)


def plan_with(plan_configuration, network: str, objective, **changes):
    own = build_small_network_plan(network, 2, **changes)
    plan = plan_configuration(dimensions=2)
    training = plan.training.model_copy(update={"objective": objective})
    return plan.model_copy(update={"network": own, "training": training, "patch_voxels": (8, 8)})


def plan_shape_prior(plan_configuration, weight: float) -> ConfigurationPlan:
    autoencoder = build_small_network_plan("label_autoencoder", 2, input_channels=3)
    objective = ShapePriorObjective(shape_prior_weight=weight, autoencoder=autoencoder, autoencoder_iterations=3)
    return plan_with(plan_configuration, "plain_unet", objective)


def draw_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        image=torch.randn(2, 2, 8, 8, generator=generator),
        label_map=torch.randint(3, (2, 8, 8), generator=generator).to(torch.int16),
    )


def take_step(learner, number: int = 0) -> float:
    torch.manual_seed(number)  # as the loop does
    learner.train()
    return run_training_step(learner, draw_batch())


def test_masks_of_outputs_are_one_hot_for_labels_and_multi_hot_for_regions() -> None:
    label_map = torch.tensor([[[0, 1, 2]]], dtype=torch.int16)
    assert build_output_masks(label_map, LABELS)[0, :, 0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    regions = build_labels({"all": (1, 2), "two": (2,)}, region_write_values=(1, 2))
    assert build_output_masks(label_map, regions)[0, :, 0].tolist() == [[0, 1, 1], [0, 0, 1]]


IGNORING = build_labels({"one": (1,), "two": (2,)}, ignore_value=9)
IGNORED = 3


def test_ignored_voxels_are_encoded_with_the_nearest_label_by_millimetres() -> None:
    label_map = torch.tensor([[[1, 3, 3, 2], [0, 3, 3, 0]], [[3] * 4, [3] * 4]], dtype=torch.int16)
    wide = fill_ignored_voxels(label_map, IGNORING, spacing_mm=(1.0, 1.0))
    assert wide[0].tolist() == [[1, 1, 2, 2], [0, 0, 0, 0]]
    assert torch.equal(wide[1], label_map[1]), "a sample of ignored voxels alone has no nearest label"
    column = torch.tensor([[[1, 1], [3, 0], [3, 0]]], dtype=torch.int16)
    assert fill_ignored_voxels(column, IGNORING, spacing_mm=(1.0, 9.0))[0].tolist() == [[1, 1], [1, 0], [1, 0]]
    assert fill_ignored_voxels(column, IGNORING, spacing_mm=(9.0, 1.0))[0].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert fill_ignored_voxels(column, LABELS, spacing_mm=(1.0, 1.0)) is column


def test_what_is_encoded_has_no_ignored_voxels_and_the_loss_does_not_count_them(plan_configuration) -> None:
    batch = draw_batch()
    holed = Batch(image=batch.image, label_map=batch.label_map.clone())
    holed.label_map[:, 2:4] = IGNORED
    filled = build_output_masks(fill_ignored_voxels(holed.label_map, IGNORING, spacing_mm=(1.0, 1.0)), IGNORING)
    assert not torch.equal(filled, build_output_masks(holed.label_map, IGNORING))
    latent = plan_with(plan_configuration, "latent_diffusion", LATENT)
    seen = []

    def reconstruct(masks):
        seen.append(masks)
        return (masks.clone(),)

    def see(image, masks, noise, steps, **_):
        start = masks[:, :2, ::2, ::2]
        return masks, start, start, reconstruct(masks)[0]

    for plan, call in ((latent, see), (plan_autoencoder_training(latent), reconstruct)):
        learner = build_learner(plan, IGNORING, device=CPU, seed=0)
        learner.objective(call, holed)
    prior = build_learner(plan_shape_prior(plan_configuration, 1.0), IGNORING, device=CPU, seed=0)
    assert torch.equal(seen[0], filled)
    assert torch.equal(seen[1], filled)
    perfect = 200 * filled - 100
    assert prior.objective._compare_shapes(perfect, holed.label_map).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_are_compared_in_the_number_format_of_the_training(plan_configuration, dtype) -> None:
    learner = build_learner(plan_shape_prior(plan_configuration, 1.0), LABELS, device=CPU, seed=0, dtype=dtype)
    (autoencoder,) = learner.objective._frozen
    formats = set()
    convolutions = [module for module in autoencoder.encoder.modules() if isinstance(module, torch.nn.Conv2d)]
    for module in convolutions:
        module.register_forward_hook(lambda _module, _inputs, output: formats.add(output.dtype))
    logits = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0)).requires_grad_()
    found = learner.objective._compare_shapes(logits, draw_batch().label_map)
    found.backward()
    assert convolutions
    assert formats == {getattr(torch, dtype)}
    assert found.dtype == logits.grad.dtype == torch.float32
    exact = build_learner(plan_shape_prior(plan_configuration, 1.0), LABELS, device=CPU, seed=0).objective
    assert found.item() == pytest.approx(exact._compare_shapes(logits, draw_batch().label_map).item(), rel=0.02)


def test_an_autoencoder_learns_label_maps_whatever_the_images(plan_configuration) -> None:
    plan = plan_autoencoder_training(plan_with(plan_configuration, "latent_diffusion", LATENT))
    assert plan is not None
    assert plan.network.family == "label_autoencoder"
    assert (plan.training.epochs, plan.training.iterations_per_epoch) == (1, 3)
    learner, twin = (build_learner(plan, LABELS, device=CPU, seed=0) for _ in range(2))
    learner.set_learning_rate(0.03)
    losses = [take_step(learner, number) for number in range(10)]
    assert losses[-1] < 0.9 * losses[0]
    torch.manual_seed(0)
    changed = Batch(image=torch.zeros(2, 2, 8, 8), label_map=draw_batch().label_map)
    assert run_training_step(twin, changed) == losses[0]


@pytest.mark.parametrize("estimate", ["latent", "noise"])
def test_latent_diffusion_trains_all_but_the_autoencoder(plan_configuration, estimate: str) -> None:
    plan = plan_with(plan_configuration, "latent_diffusion", LATENT, estimate=estimate)
    learner = build_learner(plan, LABELS, device=CPU, seed=0)
    before = {key: value.clone() for key, value in learner.network.state_dict().items()}
    for number in range(3):
        take_step(learner, number)
    changed = {key for key, value in learner.network.state_dict().items() if not torch.equal(value, before[key])}
    trained = {key for key in before if key.startswith(("vision.", "denoiser."))}
    assert changed <= trained
    assert {key.split(".")[0] for key in changed} == {"vision", "denoiser"}


def test_the_loss_of_latents_is_zero_for_the_true_ones(plan_configuration) -> None:
    plan = plan_with(plan_configuration, "latent_diffusion", LATENT)
    learner = build_learner(plan, LABELS, device=CPU, seed=0)
    network, batch = learner.network, draw_batch()
    assert isinstance(network, LatentDiffusion)

    def know_all(image, masks, noise, steps, **_):
        start = network.autoencoder.encode(masks)
        return network.autoencoder.decode(start), start, start, noise

    loss, _ = learner.objective(know_all, batch)
    assert loss.item() == 0

    def be_off(image, masks, noise, steps, **_):
        logits, start, _, found = know_all(image, masks, noise, steps)
        return logits, start + 0.25, start, found

    loss, _ = learner.objective(be_off, batch)
    assert loss.item() == pytest.approx(0.25)


def test_both_estimates_lead_from_the_true_noise_to_the_true_latents(plan_configuration) -> None:
    for estimate in ("latent", "noise"):
        plan = build_small_network_plan("latent_diffusion", 2, estimate=estimate)
        network = build_network(plan, torch.Generator().manual_seed(0))
        assert isinstance(network, LatentDiffusion)
        masks = build_output_masks(draw_batch().label_map, LABELS)
        start = network.autoencoder.encode(masks)
        noise, steps = torch.randn_like(start), torch.tensor([3, 10])
        network.denoiser.forward = lambda noisy, steps, own=(start if estimate == "latent" else noise): own
        outputs = network(draw_batch().image, masks, noise, steps)
        torch.testing.assert_close(outputs[1], start, rtol=0, atol=1e-4)
        torch.testing.assert_close(outputs[3], noise, rtol=0, atol=1e-4)


def test_validation_repeats_itself_and_scores_what_prediction_gives(plan_configuration) -> None:
    learner = build_learner(plan_with(plan_configuration, "latent_diffusion", LATENT), LABELS, device=CPU, seed=0)
    learner.train(is_training=False)
    first, second = (run_validation_step(learner, draw_batch()) for _ in range(2))
    assert first.loss == second.loss
    calls = []

    def call(image, *further, **_):
        calls.append(len(further))
        return learner.call_network(image, *further)

    _, logits = learner.objective(call, draw_batch())
    assert calls == [3, 0]
    assert torch.equal(logits, learner.network(draw_batch().image)[0])


def test_prediction_calls_the_denoiser_once_with_noise_of_the_checkpoint() -> None:
    network = build_network(build_small_network_plan("latent_diffusion", 2), torch.Generator().manual_seed(0)).eval()
    assert isinstance(network, LatentDiffusion)
    calls = []
    network.denoiser.register_forward_hook(lambda *_: calls.append(1))
    image = draw_batch().image
    with torch.no_grad():
        expected = network(image)[0]
        assert calls == [1]
        network.denoiser.head.weight.normal_()
        before = network(image)[0]
        network.noise += 1
        assert not torch.equal(network(image)[0], before)
    assert expected.shape == (2, 3, 8, 8)
    assert "noise" in network.state_dict()


def test_noise_is_repeated_and_cropped_to_other_patches() -> None:
    noise = torch.arange(6.0).reshape(1, 1, 2, 3)
    assert tile(noise, (3, 4))[0, 0].tolist() == [[0, 1, 2, 0], [3, 4, 5, 3], [0, 1, 2, 0]]
    assert torch.equal(tile(noise, (2, 3)), noise)


def test_the_weights_of_a_trained_autoencoder_are_taken(plan_configuration, tmp_path) -> None:
    plan = plan_with(plan_configuration, "latent_diffusion", LATENT)
    trained = build_network(plan.network.autoencoder, torch.Generator().manual_seed(5))
    path = tmp_path / "checkpoint_final.safetensors"
    write_weights(path, trained.state_dict())
    learner = build_learner(plan, LABELS, device=CPU, seed=0, label_autoencoder=path)
    own = learner.network.state_dict()
    assert all(torch.equal(value, own[f"autoencoder.{key}"]) for key, value in trained.state_dict().items())


def test_the_shape_prior_is_zero_for_a_perfect_prediction_and_pulls_at_logits_alone(plan_configuration) -> None:
    objective = build_learner(plan_shape_prior(plan_configuration, 1.0), LABELS, device=CPU, seed=0).objective
    label_map = draw_batch().label_map
    perfect = (200 * build_output_masks(label_map, LABELS) - 100).requires_grad_()
    assert objective._compare_shapes(perfect, label_map).item() == 0
    logits = torch.zeros(2, 3, 8, 8, requires_grad=True)
    objective._compare_shapes(logits, label_map).backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in objective._frozen[0].parameters())
    assert not objective.state_dict()
    assert not list(objective.parameters())


def test_a_shape_prior_of_weight_zero_changes_no_bit(plan_configuration) -> None:
    plain = plan_with(plan_configuration, "plain_unet", SegmentationObjective())
    plans = (plain, plan_shape_prior(plan_configuration, 0.0), plan_shape_prior(plan_configuration, 1.0))
    losses = []
    for plan in plans:
        learner = build_learner(plan, LABELS, device=CPU, seed=0)
        losses.append([take_step(learner, number) for number in range(2)])
    assert losses[0] == losses[1]
    assert losses[2] != losses[0]
    assert plan_autoencoder_training(plans[1]) is None
    assert plan_autoencoder_training(plans[2]) is not None


@pytest.mark.parametrize(
    ("network", "objective", "expected"),
    [
        ("latent_diffusion", {"name": "segmentation"}, "objective must be 'latent_diffusion'"),
        ("plain_unet", LATENT.model_dump(), "needs a network of the family latent_diffusion"),
        ("plain_unet", {"name": "reconstruction"}, "needs a network of the family label_autoencoder"),
    ],
)
def test_objectives_that_do_not_fit_the_network_are_refused(plan_configuration, network, objective, expected) -> None:
    content = plan_with(plan_configuration, network, LATENT).model_dump()
    content["training"]["objective"] = objective
    with pytest.raises((DocumentError, ValueError), match=expected):
        ConfigurationPlan.model_validate(content)


def train_prior(plan, training_data, folder, *, notes=None):
    """Trains the autoencoder of a plan."""
    options = TrainingOptions(
        device=CPU,
        seed=0,
        workers=0,
        seconds_between_checkpoints=0.0,
        largest_saving_share=1.0,
        announce=(notes if notes is not None else []).append,
    )
    return train_label_autoencoder(plan, training_data, folder=folder, options=options)


@pytest.fixture
def latent_plan(plan_configuration):
    """Latent diffusion for patches of 16 x 16 voxels of one channel and one class."""
    objective = LATENT.model_copy(update={"autoencoder_iterations": 6})
    network = build_small_network_plan("latent_diffusion", 2).model_dump()
    network |= {"input_channels": 1, "output_channels": 2}
    network["autoencoder"] |= {"input_channels": 2, "output_channels": 2}
    plan = plan_configuration()
    training = plan.training.model_copy(update={"objective": objective})
    return plan.model_copy(update={"network": LatentDiffusionPlan.model_validate(network), "training": training})


def test_an_autoencoder_is_trained_once_and_an_interrupted_training_of_it_is_resumed_bit_for_bit(
    latent_plan, training_data, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(plan_label_prior, "ITERATIONS_PER_EPOCH", 3)
    notes: list[str] = []
    whole = train_prior(latent_plan, training_data, tmp_path / "whole", notes=notes)
    assert "label maps of the training cases" in notes[0]
    assert "mean Dice of" in notes[-1]
    assert whole is not None
    own_train = label_prior.train

    def be_interrupted(*args, **kwargs):
        events = own_train(*args, **kwargs)
        for event in events:
            yield event
            if isinstance(event, EpochDone):
                events.close()
                raise KeyboardInterrupt

    monkeypatch.setattr(label_prior, "train", be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_prior(latent_plan, training_data, tmp_path / "parts")
    assert not FoldFolder(tmp_path / "parts" / label_prior.FOLDER_NAME).final_checkpoint.exists()
    monkeypatch.setattr(label_prior, "train", own_train)
    resumed = train_prior(latent_plan, training_data, tmp_path / "parts")
    assert resumed is not None
    first, second = (read_weights(path) for path in (whole, resumed))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    before, notes = whole.stat().st_mtime_ns, []
    assert train_prior(latent_plan, training_data, tmp_path / "whole", notes=notes) == whole
    assert (whole.stat().st_mtime_ns, notes) == (before, [])


def test_an_autoencoder_gets_a_fifth_of_the_time_that_is_left_for_training(latent_plan) -> None:
    clock = Clock()
    budget = Budget(seconds=100.0, reserved_seconds=20.0, start=clock(), clock=clock)
    own = label_prior._share_budget(budget)
    assert own is not None
    assert own.remaining_seconds == pytest.approx(16.0)
    assert label_prior._share_budget(None) is None


@pytest.mark.parametrize(
    ("dice", "expected"),
    [(0.99, "mean Dice of 0.990"), (0.9, "warning: below 0.98"), (None, "is not measured")],
)
def test_a_poor_reconstruction_is_told(latent_plan, dice, expected: str) -> None:
    assert expected in tell_reconstruction(dice, latent_plan)


def tell_reconstruction(dice: float | None, plan: ConfigurationPlan) -> str:
    record = EpochRecord(
        epoch=0,
        learning_rate=0.1,
        train_loss=0.0,
        validation_loss=0.0,
        pseudo_dice=(dice,),
        mean_pseudo_dice=dice,
        moving_average=dice,
        seconds=1.0,
        seconds_per_iteration=1.0,
        data_wait_seconds=0.0,
    )
    return describe_reconstruction([record], plan, configuration="2d")


def build_deep_latents(plan_configuration, reductions: tuple[int, ...] = (2, 2)) -> ConfigurationPlan:
    """Latents of as many reductions as steps are given, of patches of 16 x 16 pixels, whose denoiser halves once."""
    small = build_small_network_plan("latent_diffusion", 2)
    strides = ((1, 1), *((step, step) for step in reductions))
    count = len(strides)
    autoencoder = {"features_per_stage": (4, 8, 12)[:count], "kernel_sizes": ((3, 3),) * count, "strides": strides}
    network = small.model_copy(
        update={
            "autoencoder": small.autoencoder.model_copy(update=autoencoder),
            "vision_features_per_stage": (4, 6, 8)[:count],
            "denoiser": small.denoiser.model_copy(update={"kernel_sizes": ((3, 3),) * 2, "strides": ((1, 1), (2, 2))}),
            "noise_grid": (4, 4) if count == 3 else (8, 8),
        }
    )
    plan = plan_with(plan_configuration, "latent_diffusion", LATENT)
    changed = plan.model_copy(update={"network": network, "patch_voxels": (16, 16)})
    return ConfigurationPlan.model_validate(changed.model_dump())


def test_a_poor_reconstruction_of_coarse_latents_names_every_field_to_change_with_both_values(
    plan_configuration,
) -> None:
    plan = build_deep_latents(plan_configuration)
    told = tell_reconstruction(0.97, plan)
    assert "raise training.objective.autoencoder_iterations, now 3, in plan.json under configurations.2d" in told
    expected = {
        "network.autoencoder.features_per_stage": "[4, 8, 12] to [4, 8]",
        "network.autoencoder.kernel_sizes": "[[3, 3], [3, 3], [3, 3]] to [[3, 3], [3, 3]]",
        "network.autoencoder.strides": "[[1, 1], [2, 2], [2, 2]] to [[1, 1], [2, 2]]",
        "network.vision_features_per_stage": "[4, 6, 8] to [4, 6]",
        "network.denoiser.features_per_stage": "[4, 8] to [4, 4, 8]",
        "network.denoiser.kernel_sizes": "[[3, 3], [3, 3]] to [[3, 3], [3, 3], [3, 3]]",
        "network.denoiser.strides": "[[1, 1], [2, 2]] to [[1, 1], [2, 2], [2, 2]]",
        "network.denoiser.attention_stages": "[1] to [2]",
        "network.noise_grid": "[4, 4] to [8, 8]",
    }
    assert all(f"{key} from {values}" in told for key, values in expected.items())
    assert told.count(" from ") == len(expected)
    assert told.endswith("then begin anew with --restart")


def test_a_plan_that_is_changed_as_told_fits_the_same_patches(plan_configuration) -> None:
    plan = build_deep_latents(plan_configuration)
    finer = refine_latents(plan)
    assert finer is not None
    assert ConfigurationPlan.model_validate(finer.model_dump()) == finer
    assert finer.network.patch_divisors == plan.network.patch_divisors
    with torch.device("meta"):
        network = build_network(finer.network).eval()
        assert network(torch.empty(1, 2, 16, 16))[0].shape == (1, 3, 16, 16)
    assert refine_latents(finer) is None
    assert "--restart" not in tell_reconstruction(0.97, finer)


def test_the_latents_of_a_shape_prior_are_made_finer_in_its_objective(plan_configuration) -> None:
    plan = plan_shape_prior(plan_configuration, 1.0)
    changes = list_changed_fields(plan, refine_latents(plan))
    assert {key.rpartition(".")[0] for key in changes} == {"training.objective.autoencoder"}
    assert {key.rpartition(".")[2] for key in changes} == {"features_per_stage", "kernel_sizes", "strides"}


def test_a_plan_without_an_autoencoder_trains_none(plan_configuration, training_data, tmp_path) -> None:
    assert train_prior(plan_configuration(), training_data, tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_parts_of_a_batch_add_up_to_the_validation_loss_of_the_whole_batch(plan_configuration) -> None:
    learner = build_learner(plan_with(plan_configuration, "latent_diffusion", LATENT), LABELS, device=CPU, seed=0)
    learner.train(is_training=False)
    batch, losses = draw_batch(), []
    for place in (slice(0, 2), slice(0, 1), slice(1, 2)):
        count = place.stop - place.start
        learner.objective.part = BatchPart(share=count / 2, first=place.start, batch_size=2)
        part = Batch(image=batch.image[place], label_map=batch.label_map[place])
        losses.append(run_validation_step(learner, part).loss)
    assert losses[0] == pytest.approx(sum(losses[1:]))


def test_the_steps_of_latent_diffusion_are_timed(plan_configuration) -> None:
    learner = build_learner(plan_with(plan_configuration, "latent_diffusion", LATENT), LABELS, device=CPU, seed=0)
    times = measure_step_times(learner, iter([draw_batch()] * 30), lambda key: draw_batch(), budget_seconds=0.1)
    assert times.iteration_seconds > 0
