"""Synthetic cases: plans of their denoisers, varied label maps, images of any extent, and what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders.folds import build_checkpoint_description
from builders.geometries import build_geometry
from builders.labels import build_labels
from builders.plans import build_channels, build_configuration, build_plan, build_transforms
from builders.threads import use_one_thread
from safetensors.torch import save_file

from autoseg.dataset.folds import Fold
from autoseg.document import read_document, write_document
from autoseg.errors import OptionError, PlanError, RunError, TrainingError
from autoseg.geometry import IDENTITY
from autoseg.networks import build_network
from autoseg.networks.families.diffusion_unet import DiffusionUNet
from autoseg.plan import ConfigurationPlan
from autoseg.plan.augmentation import DeformationPlan
from autoseg.plan.network.diffusion_unet import DiffusionUNetPlan
from autoseg.plan.objectives import ChannelRange
from autoseg.preprocessing.cache import CachedCase
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.processes.fold_lock import lock_fold
from autoseg.processes.progress import SilentProgress
from autoseg.processes.signals import StopRequest
from autoseg.run_folder import RunFolder
from autoseg.training.checkpoint import DESCRIPTION_KEY
from autoseg.training.options import Length
from autoseg.volume_io import read_image
from autoseg.volume_io.formats.pictures import write_colours
from autoseg.workflows.folds.synthesis import (
    SynthesisFolder,
    SynthesisPlan,
    SyntheticCase,
    SyntheticRecord,
    find_synthetic_cases,
)
from autoseg.workflows.plan.preprocessing import extract_recipe
from autoseg.workflows.synthesize import synthesizing
from autoseg.workflows.synthesize.artist import Artist, sample_image
from autoseg.workflows.synthesize.denoiser_plan import ETA, choose_stages, plan_denoiser, plan_variation
from autoseg.workflows.synthesize.job import SynthesisJob, check_can_be_synthesized
from autoseg.workflows.synthesize.label_variation import build_synthetic_geometry, vary_label_map
from autoseg.workflows.synthesize.request import SynthesisRequest
from autoseg.workflows.synthesize.synthesizing import synthesize_fold
from autoseg.workflows.train.fold_options import add_synthetic_cases, build_training_options
from autoseg.workflows.train.job import FoldJob, record_training
from autoseg.workflows.train.request import TrainingRequest

_one_thread = pytest.fixture(autouse=True)(use_one_thread)
RANGE = ChannelRange(mean=1.0, std=2.0, lowest=-3.0, highest=5.0)
LABELS = build_labels({"liver": (5,), "tumour": (9,)}, ignore_value=7)
SPATIAL = {"spatial": {"rotation_probability": 1.0}, "mirror": {}}


def build_synthesis_plan(patch: tuple[int, ...], transforms=SPATIAL, ranges=(RANGE,)) -> SynthesisPlan:
    configuration = build_configuration(patch, training={"transforms": build_transforms(**transforms), "batch_size": 2})
    denoiser, reasons = plan_denoiser(configuration, ranges, condition_channels=4, device_type="cpu")
    variation, reason = plan_variation(configuration)
    return SynthesisPlan(
        configuration="2d",
        fold="0",
        training_cases=("case",),
        denoiser=denoiser,
        variation=variation,
        eta=ETA,
        patches_per_axis=2,
        reasons=(*reasons, reason),
    )


def build_case(shape: tuple[int, int, int]) -> CachedCase:
    """A case with a block of each label, the ignored one, and a border outside the nonzero region."""
    label_map = np.full(shape, -1, dtype=np.int16)
    label_map[:, 1:-1, 1:-1] = 0
    label_map[:, 2:5, 2:5], label_map[-1, 5:8, 3:6], label_map[:, 8:10, 8:10] = 1, 2, 3
    return CachedCase(
        name="case",
        image=np.zeros((1, *shape), dtype=np.float32),
        label_map=label_map,
        locations=find_class_locations(label_map, LABELS),
        geometry=build_geometry(shape),
    )


def test_stages_halve_the_axes_that_are_about_as_fine_as_the_finest() -> None:
    strides, kernels = choose_stages((8, 32, 32), (3.0, 1.0, 1.0))
    assert strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 2))
    assert kernels == ((1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert choose_stages((6, 6), (1.0, 1.0)) == (((1, 1),), ((3, 3),))


@pytest.mark.parametrize(("device_type", "features"), [("cpu", (16, 32, 64)), ("cuda", (32, 64, 128))])
def test_the_denoiser_is_narrower_on_a_cpu(device_type: str, features: tuple[int, ...]) -> None:
    denoiser, reasons = plan_denoiser(
        build_configuration((16, 16)), (RANGE,), condition_channels=4, device_type=device_type
    )
    assert isinstance(denoiser.network, DiffusionUNetPlan)
    assert denoiser.network.denoiser.features_per_stage == features
    assert next(reason for reason in reasons if reason.subject == "features").because.startswith(f"{features[0]} at")


@pytest.mark.parametrize("patch", [(16, 16), (8, 16, 16)])
@pytest.mark.parametrize("transforms", [SPATIAL, {}])
def test_a_synthesis_plan_can_be_read_back_and_says_why(tmp_path: Path, patch, transforms) -> None:
    plan = build_synthesis_plan(patch, transforms)
    write_document(tmp_path / "synthesis.json", plan)
    assert read_document(tmp_path / "synthesis.json", SynthesisPlan) == plan
    assert plan.denoiser.network.input_channels == 4
    assert plan.denoiser.border == "mirror"
    assert plan.reasons[-1].subject == "variation"
    warp = plan.variation[0]
    assert isinstance(warp, DeformationPlan)
    assert warp.elastic_probability == 1
    assert warp.rotation_probability == (1.0 if transforms else 0.0)
    assert [row.name for row in plan.denoiser.training.transforms] == list(transforms)


@pytest.mark.parametrize(
    ("patch", "shape", "expected"),
    [
        ((16, 16), (6, 24, 40), (1, 24, 32)),
        ((16, 16), (1, 12, 20), (1, 16, 20)),
        ((8, 16, 16), (30, 12, 20), (16, 16, 20)),
    ],
)
def test_a_varied_label_map_is_new_repeatable_and_within_two_patches(patch, shape, expected) -> None:
    plan, case = build_synthesis_plan(patch), build_case(shape)
    first, again, other = (vary_label_map(case, plan, np.random.SeedSequence((0, seed))) for seed in (1, 1, 2))
    assert first.shape == expected
    assert first.dtype == np.int16
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert set(np.unique(first)) <= {-1, 0, 1, 2, 3}
    assert any((found > 0).any() for found in (first, other))


def test_a_synthetic_case_has_the_directions_and_spacing_of_its_source() -> None:
    source = build_geometry((6, 20, 20), axis_permutation=(1, 0, 2), target_spacing_mm=(3.0, 2.0, 1.0))
    geometry = build_synthetic_geometry(source, (4, 16, 18))
    assert geometry.grid.shape_voxels == (4, 16, 18)
    assert geometry.grid.spacing_mm == (3.0, 2.0, 1.0)
    assert geometry.grid.direction[0] == source.grid.direction[1]
    assert geometry.reorientation == IDENTITY


class KnowingNetwork(DiffusionUNet):
    """A denoiser whose estimate is the label map that it is given, in all channels alike."""

    def estimate_image(self, masks, noisy, number):
        assert masks.shape[2:] == noisy.shape[2:]
        assert number in {step.number for step in self.implicit_steps}
        return masks[:, :1].expand(noisy.shape)


def build_knowing_network() -> KnowingNetwork:
    plan = build_synthesis_plan((8, 8), ranges=(RANGE, RANGE)).denoiser.network
    assert isinstance(plan, DiffusionUNetPlan)
    return KnowingNetwork(plan)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_network_that_knows_the_image_draws_it_within_the_intensities_of_training(eta: float) -> None:
    network, done = build_knowing_network(), []
    known = torch.randn(1, 4, 8, 16, generator=torch.Generator().manual_seed(0)) * 2
    drawn = sample_image(
        network, known, channels=(RANGE, RANGE), eta=eta, generator=torch.Generator(), on_step=done.append
    )
    expected = (known[:, :1] * RANGE.std + RANGE.mean).clamp(RANGE.lowest, RANGE.highest)
    torch.testing.assert_close(drawn, expected.expand(1, 2, 8, 16))
    assert done == list(range(1, len(network.implicit_steps) + 1))


def test_noise_of_every_step_decides_the_image_where_it_is_planned(monkeypatch) -> None:
    """An estimate that keeps half of what it sees: without noise on the way the first noise decides all."""
    network = build_knowing_network()
    monkeypatch.setattr(network, "estimate_image", lambda masks, noisy, number: noisy / 2)
    drawn = {}
    for eta in (0.0, 1.0):
        states = [torch.Generator().manual_seed(seed) for seed in (3, 3, 4)]
        first, again, other = (
            sample_image(network, torch.zeros(1, 4, 8, 8), channels=(RANGE,), eta=eta, generator=state)
            for state in states
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        drawn[eta] = (first, states[0].get_state())
    assert not torch.equal(drawn[0.0][0], drawn[1.0][0])
    assert not torch.equal(drawn[0.0][1], drawn[1.0][1])  # more of the generator is used


def test_pictures_in_colour_are_written_as_they_are(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (3, 5, 7), dtype=np.uint8)
    write_colours(tmp_path / "a.png", colours, grid=build_geometry((1, 5, 7)).grid)
    np.testing.assert_array_equal(read_image([tmp_path / "a.png"]).array[:, 0], colours)


@pytest.mark.parametrize(
    ("name", "words"), [("second", "what 2d predicts"), ("2.5d", "3 neighbouring slices"), ("planes", "several axes")]
)
def test_configurations_that_synthetic_cases_cannot_train_are_refused_by_name(name: str, words: str) -> None:
    plain = build_configuration((16, 16), data_of="2d")
    context = plain.model_copy(update={"context_slices": 1})
    planes = plain.model_copy(update={"plane_axes": (0, 1)})
    second = build_configuration((16, 16), previous="2d", data_of="2d", network={"input_channels": 3})
    plan = build_plan({"2d": plain}).model_copy(
        update={"configurations": {"2d": plain, "2.5d": context, "planes": planes, "second": second}}
    )
    check_can_be_synthesized(plan, "2d")
    with pytest.raises(PlanError, match=rf"cannot train {name}: .*{words}.*\(2d\)"):
        check_can_be_synthesized(plan, name)


@pytest.fixture
def made(tmp_path: Path):
    """A run with two synthetic cases of fold 0, whose arrays are empty files."""
    run, plan = RunFolder(tmp_path), build_plan({"2d": build_configuration((16, 16), data_of="2d")})
    fold, folder = Fold(training=("a", "b"), validation=("c",)), SynthesisFolder(run.synthetic("2d", "0"))
    cases = tuple(SyntheticCase(name=f"synthetic_000{index}", source="a") for index in (1, 2))
    record = SyntheticRecord(
        configuration="2d", fold="0", training_cases=fold.training, seed=0, weights_sha256="0", cases=cases
    )
    write_document(folder.record, record)
    write_document(folder.denoiser.plan, plan)
    for name in record.names:
        for ending in ("json", "image.b2nd", "labels.b2nd", "locations.npy"):
            folder.cases.mkdir(exist_ok=True)
            (folder.cases / f"{name}.{ending}").write_text("x")
    return run, plan, fold


def test_the_cases_of_a_fold_are_found_and_their_share_belongs_to_their_digest(made) -> None:
    run, plan, fold = made
    found = find_synthetic_cases(run, plan, "2d", "0", cases=fold)
    assert found.names == ("synthetic_0001", "synthetic_0002")
    assert found.folder == run.root / "synthetic" / "2d" / "fold_0" / "preprocessed"
    configuration: ConfigurationPlan = plan.configurations["2d"]
    digests = {found.digest}
    for changes in ({"synthetic_fraction": 0.25}, {"synthetic_end_fraction": 0.25}):
        training = configuration.training.model_copy(update=changes)
        changed = {"2d": configuration.model_copy(update={"training": training})}
        other = plan.model_copy(update={"configurations": changed})
        digests.add(find_synthetic_cases(run, other, "2d", "0", cases=fold).digest)
    assert len(digests) == 3


def test_a_training_that_is_continued_keeps_the_cases_to_which_others_were_added(made) -> None:
    run, plan, fold = made
    job = FoldJob(run=run, plan=plan, configuration="2d", fold="0", cases=fold, device=torch.device("cpu"))
    request = TrainingRequest(synthetic=True, workers=0)
    begun = add_synthetic_cases(job, request, None, SilentProgress())
    assert begun.synthetic is not None
    record_training(
        begun, build_training_options(begun, request, "float32", checkpoint=None, progress=SilentProgress())
    )
    description = build_checkpoint_description(epochs=0, iterations=1)
    identity = description.identity.model_copy(update={"synthetic_digest": begun.synthetic.digest})
    description = description.model_copy(update={"identity": identity})
    save_file({}, job.folder.latest_checkpoint, {DESCRIPTION_KEY: description.model_dump_json()})
    folder = SynthesisFolder(run.synthetic("2d", "0"))
    record = read_document(folder.record, SyntheticRecord)
    more = SyntheticCase(name="synthetic_0003", source="b")
    write_document(folder.record, record.model_copy(update={"cases": (*record.cases, more)}))
    for changed in (request, replace(request, synthetic=False)):
        assert add_synthetic_cases(job, changed, description, SilentProgress()).synthetic == begun.synthetic
    with pytest.raises(RunError, match="lacks synthetic cases, such as synthetic_0003"):
        add_synthetic_cases(job, request, None, SilentProgress())
    job.folder.latest_checkpoint.rename(job.folder.final_checkpoint)
    folder.record.unlink()
    finished = add_synthetic_cases(job, replace(request, synthetic=False), description, SilentProgress()).synthetic
    assert finished is not None
    assert (finished.names, finished.digest) == ((), begun.synthetic.digest)
    for further in (request, replace(request, synthetic=False, length=Length(more_epochs=1))):
        with pytest.raises(RunError, match="has no synthetic cases"):
            add_synthetic_cases(job, further, description, SilentProgress())


def test_cases_of_another_fold_or_of_other_training_cases_train_no_fold(made) -> None:
    run, plan, fold = made
    with pytest.raises(RunError, match=r"make them with: autoseg synthesize .* --configuration 2d --fold 1"):
        find_synthetic_cases(run, plan, "2d", "1", cases=fold)
    run.synthetic("2d", "0").rename(run.synthetic("2d", "1"))
    for other, cases in (("1", fold), ("1", replace_training(fold, ("b", "c")))):
        with pytest.raises(RunError, match="held-out cases would leak into the training"):
            find_synthetic_cases(run, plan, "2d", other, cases=cases)
    run.synthetic("2d", "1").rename(run.synthetic("2d", "0"))
    with pytest.raises(RunError, match="held-out cases would leak into the training"):
        find_synthetic_cases(run, plan, "2d", "0", cases=replace_training(fold, ("b", "c")))


def replace_training(fold: Fold, names: tuple[str, ...]) -> Fold:
    return fold.model_copy(update={"training": names, "validation": ("a",)})


def test_cases_of_another_plan_missing_ones_and_names_of_the_dataset_are_refused(made) -> None:
    run, plan, fold = made
    other = plan.model_copy(update={"channels": build_channels("zscore", name="CT")})
    with pytest.raises(RunError, match=r"made for another plan .*--restart"):
        find_synthetic_cases(run, other, "2d", "0", cases=fold)
    with pytest.raises(RunError, match="synthetic_0001 is the name of a synthetic case and of one of the dataset"):
        find_synthetic_cases(run, plan, "2d", "0", cases=fold.model_copy(update={"validation": ("synthetic_0001",)}))
    next(run.synthetic("2d", "0").glob("preprocessed/synthetic_0002.json")).unlink()
    with pytest.raises(RunError, match="lacks synthetic cases, such as synthetic_0002"):
        find_synthetic_cases(run, plan, "2d", "0", cases=fold)


def test_two_lengths_of_the_training_of_a_denoiser_are_refused() -> None:
    with pytest.raises(OptionError, match="--budget and --epochs both say how long to train the denoiser; give one"):
        SynthesisRequest(epochs=1, budget_seconds=60.0)


@pytest.fixture
def job(made) -> SynthesisJob:
    run, plan, fold = made
    write_document(run.recipe("2d"), extract_recipe(plan, "2d"))
    run.preprocessed("2d").mkdir()
    for name in fold.training:
        for ending in ("json", "image.b2nd", "labels.b2nd", "locations.npy"):
            (run.preprocessed("2d") / f"{name}.{ending}").write_text("x")
    where = {"run": run, "plan": plan, "configuration": "2d", "fold": "0"}
    return SynthesisJob(**where, cases=fold, device=torch.device("cpu"), seed=0)


def test_cases_that_may_train_now_are_not_discarded(job: SynthesisJob) -> None:
    request = SynthesisRequest(restart=True)
    with (
        lock_fold(job.run.fold("2d", "0"), device="cuda:1"),
        pytest.raises(RunError, match=r"2d, fold 0 is being trained by process .*\(cuda:1\).*wait until it has ended"),
    ):
        synthesize_fold(job, request, progress=SilentProgress(), stop=StopRequest())
    assert job.folder.record.is_file()


def test_arrays_that_were_replaced_until_the_lock_was_held_are_not_read_and_nothing_is_discarded(job) -> None:
    finer = job.configuration_plan.model_copy(update={"spacing_mm": (0.5, 0.5)})
    other = job.plan.model_copy(update={"configurations": {"2d": finer}})
    write_document(job.run.recipe("2d"), extract_recipe(other, "2d"))
    with pytest.raises(RunError, match=r"plan\.json was changed after .* was made .*; run: autoseg preprocess"):
        synthesize_fold(job, SynthesisRequest(restart=True), progress=SilentProgress(), stop=StopRequest())
    assert job.folder.record.is_file()


def test_a_command_that_cannot_begin_discards_nothing(job) -> None:
    with pytest.raises(RunError, match="case"):  # the arrays, which are no arrays, cannot be measured
        synthesize_fold(job, SynthesisRequest(restart=True), progress=SilentProgress(), stop=StopRequest())
    assert len(read_document(job.folder.record, SyntheticRecord).cases) == 2
    assert [path.name for path in job.folder.root.parent.iterdir() if path.is_dir()] == [job.folder.root.name]


def test_two_commands_do_not_make_the_same_cases_also_after_one_has_discarded_them(job, monkeypatch) -> None:
    def find_plan_meanwhile(*arguments) -> None:
        assert not job.folder.root.exists()
        synthesize_fold(job, SynthesisRequest(), progress=SilentProgress(), stop=StopRequest())

    monkeypatch.setattr(synthesizing, "_find_plan", find_plan_meanwhile)
    with pytest.raises(TrainingError, match="is being trained already"):
        synthesize_fold(job, SynthesisRequest(restart=True), progress=SilentProgress(), stop=StopRequest())


@pytest.mark.parametrize("patch", [(16, 16), (8, 16, 16)])
def test_a_drawn_image_follows_its_label_map_and_is_zero_outside_the_nonzero_region(patch) -> None:
    channels = build_channels("zscore", "zscore", inside_nonzero_only=True)
    first = channels[0].model_copy(update={"inside_nonzero_only": False})
    plan = build_plan({"2d": build_configuration(patch, data_of="2d")}, labels=LABELS).model_copy(
        update={"channels": (first, channels[1])}
    )
    made = build_synthesis_plan(patch, ranges=(RANGE, RANGE))
    network = build_network(made.denoiser.network)
    assert isinstance(network, DiffusionUNet)
    # behind two noisy channels are the masks
    network.denoiser.forward = lambda seen, steps: seen[:, 2:].argmax(1, keepdim=True).float().expand_as(seen[:, :2])
    job = SynthesisJob(
        run=RunFolder(Path("run")),
        plan=plan,
        configuration="2d",
        fold="0",
        cases=Fold(training=("case",), validation=("other",)),
        device=torch.device("cpu"),
        seed=0,
    )
    artist = Artist(job=job, plan=made, network=network)
    label_map = np.array(build_case((3 if len(patch) == 3 else 1, 18, 21)).label_map)
    label_map = np.repeat(label_map, 4, axis=0) if len(patch) == 3 else label_map
    image = artist.draw_image(label_map, np.random.SeedSequence(0), on_step=lambda done: None)
    expected = np.minimum(np.maximum(label_map, 0) * RANGE.std + RANGE.mean, RANGE.highest)
    np.testing.assert_allclose(image[0], expected, rtol=1e-5)
    np.testing.assert_allclose(image[1], np.where(label_map < 0, 0, expected), rtol=1e-5)
