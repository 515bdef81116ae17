"""Several configurations as one model: the mean of their probabilities, without an array of probabilities."""

import numpy as np
import pytest
import torch
from builders.folds import write_trained_fold
from builders.geometries import build_geometry
from builders.labels import build_labels
from builders.plans import RESAMPLING, build_configuration, build_plan

from autoseg.document import read_document
from autoseg.errors import PredictionError
from autoseg.geometry import Grid
from autoseg.inference.ensemble import MemberChoice, load_ensemble, restore_mean_label_map
from autoseg.inference.model import SegmentationModel, load_model
from autoseg.inference.options import PredictionOptions
from autoseg.inference.restoring.restore_grid import restore_label_map, restore_probabilities
from autoseg.plan import MasksOfPreviousStage
from autoseg.processes.progress import SilentProgress
from autoseg.volume_io import read_image, read_label_map, write_image
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.predict.prediction_folder import PredictionRecord

CASCADE = "3d_cascade_fullres"
OPTIONS = PredictionOptions(mirroring=False)
REGIONS = build_labels({"whole": (1, 2), "core": (2,)}, region_write_values=(1, 2))
PLAIN = build_labels({"a": (4,), "b": (300,)})


def make_geometry(resampled, target_spacing_mm):
    return build_geometry(
        (14, 17, 16),
        orientation="LPS",
        axis_permutation=(1, 0, 2),
        crop_box=((1, 13), (2, 13), (3, 14)),
        cropped_shape_voxels=(12, 11, 11),
        resampled_shape_voxels=resampled,
        target_spacing_mm=target_spacing_mm,
    )


@pytest.fixture
def members():
    """Logits of three classes on two grids, and the geometries."""
    geometries = [make_geometry((6, 6, 6), (2.0, 2.0, 2.0)), make_geometry((12, 8, 7), (1.0, 1.5, 1.5))]
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn((3, *geometry.resampled_shape_voxels), generator=generator) for geometry in geometries]
    return logits, geometries


def average(logits, geometries, labels):
    volumes = [
        restore_probabilities(part, geometry, labels=labels, resampling=RESAMPLING)
        for part, geometry in zip(logits, geometries, strict=True)
    ]
    return (volumes[0] + volumes[1]) / 2


@pytest.mark.parametrize("strip_bytes", [1, 2000, 2**22])
def test_labels_are_those_of_the_highest_mean_probability(members, strip_bytes):
    logits, geometries = members
    found = restore_mean_label_map(logits, geometries, [RESAMPLING] * 2, labels=PLAIN, strip_bytes=strip_bytes)
    np.testing.assert_array_equal(found, average(logits, geometries, PLAIN).argmax(axis=0))
    alone = [
        restore_label_map(part, geometry, labels=PLAIN, resampling=RESAMPLING)
        for part, geometry in zip(logits, geometries, strict=True)
    ]
    assert all((found != label_map).any() for label_map in alone)


def test_regions_are_those_whose_mean_probability_is_above_one_half(members):
    logits, geometries = [part[:2] for part in members[0]], members[1]
    found = restore_mean_label_map(logits, geometries, [RESAMPLING] * 2, labels=REGIONS)
    mean = average(logits, geometries, REGIONS)
    expected = np.zeros(mean.shape[1:], np.int16)
    expected[mean[0] > 0.5] = 1
    expected[mean[1] > 0.5] = 2
    np.testing.assert_array_equal(found, expected)


def test_a_tie_goes_to_the_lowest_label_and_one_half_is_outside(members):
    geometries = members[1]
    zeros = [torch.zeros((3, *geometry.resampled_shape_voxels)) for geometry in geometries]
    assert not restore_mean_label_map(zeros, geometries, [RESAMPLING] * 2, labels=PLAIN).any()
    regions = [part[:2] for part in zeros]
    assert not restore_mean_label_map(regions, geometries, [RESAMPLING] * 2, labels=REGIONS).any()


@pytest.fixture
def plan():
    second = build_configuration((8, 8, 8), network={"input_channels": 3})
    configurations = {
        "2d": build_configuration((8, 8)),
        "3d_fullres": build_configuration((8, 8, 8)),
        "3d_lowres": build_configuration((8, 8, 8), spacing_mm=(2.0, 2.0, 2.0)),
        CASCADE: second.model_copy(update={"previous_stage": MasksOfPreviousStage(configuration="3d_lowres")}),
    }
    return build_plan(configurations, orientation="LPS", axis_permutation=(1, 0, 2))


@pytest.fixture
def run(tmp_path, plan):
    root = tmp_path / "run"
    for seed, name in enumerate(("2d", "3d_lowres", CASCADE)):
        write_trained_fold(root, plan, name, fold="0", seed=seed)
    return root


@pytest.fixture
def image(tmp_path):
    grid = Grid(shape_voxels=(12, 16, 14), spacing_mm=(1.0, 1.25, 1.0))
    array = np.zeros((12, 16, 14), np.float32)
    array[2:12, 2:14, 2:12] = np.random.default_rng(0).normal(size=(10, 12, 10))
    write_image(tmp_path / "images" / "case_0000.nii.gz", array, grid=grid)
    return tmp_path / "images" / "case_0000.nii.gz"


@pytest.mark.parametrize("names", [("2d", "3d_lowres"), ("2d", CASCADE)])
def test_an_ensemble_of_a_run_equals_probabilities_averaged_by_hand(run, plan, image, names):
    choices = [MemberChoice(configuration=name, folds=("0",)) for name in names]
    ensemble = load_ensemble(run, choices, device="cpu", precision="float32")
    assert [stage.configuration for stage in ensemble.stages][-1] == names[-1]
    volume = read_image([image])
    mean = sum(
        load_model(run, configuration=name, device="cpu", precision="float32").predict_probabilities(
            volume.array, volume.grid, options=OPTIONS
        )
        for name in names
    ) / np.float32(2)
    found = ensemble.predict_volume(volume.array, volume.grid, options=OPTIONS)
    np.testing.assert_array_equal(found, plan.labels.decode(mean.argmax(axis=0).astype(np.int16)))
    cases = ensemble.preprocess(volume.array, volume.grid)
    slices = ensemble.iterate_probabilities(
        ensemble.predict_case(cases, options=OPTIONS), [case.geometry for case in cases]
    )
    gathered = np.empty_like(mean)
    for place, probabilities in slices:
        gathered[:, *place] = probabilities
    np.testing.assert_array_equal(gathered, mean)


class Distant(torch.Tensor):
    """A tensor on a device whose memory is full."""

    device = torch.device("cuda")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_probabilities_go_on_in_ram_when_the_device_is_full(run, image, monkeypatch, caplog):
    ensemble = load_ensemble(run, [MemberChoice(configuration="3d_lowres", folds=None)], device="cpu")
    volume = read_image([image])
    cases = ensemble.preprocess(volume.array, volume.grid)
    logits, geometries = ensemble.predict_case(cases, options=OPTIONS), [case.geometry for case in cases]
    expected = [probabilities for _, probabilities in ensemble.iterate_probabilities(logits, geometries)]
    iterate = SegmentationModel.iterate_probabilities

    def iterate_two(model, part, geometry):
        for count, found in enumerate(iterate(model, part.as_subclass(torch.Tensor), geometry)):
            if count == 2 and isinstance(part, Distant):
                raise torch.OutOfMemoryError
            yield found

    monkeypatch.setattr(SegmentationModel, "iterate_probabilities", iterate_two)
    distant = [part.as_subclass(Distant) for part in logits]
    found = [probabilities for _, probabilities in ensemble.iterate_probabilities(distant, geometries)]
    assert "ran out of memory" in caplog.text
    np.testing.assert_array_equal(found, expected)


def test_one_member_predicts_as_it_does_alone(run, image):
    choices = [MemberChoice(configuration="3d_lowres", folds=None)]
    ensemble = load_ensemble(run, choices, device="cpu", precision="float32")
    volume = read_image([image])
    alone = load_model(run, configuration="3d_lowres", device="cpu", precision="float32")
    np.testing.assert_array_equal(
        ensemble.predict_volume(volume.array, volume.grid), alone.predict_volume(volume.array, volume.grid)
    )
    assert ensemble.describe() == alone.describe()


def test_members_of_other_labels_or_axes_are_refused(run, plan):
    write_trained_fold(run, plan.model_copy(update={"axis_permutation": (0, 1, 2)}), "3d_fullres", fold="0")
    choices = [MemberChoice(configuration=name, folds=None) for name in ("2d", "3d_fullres")]
    with pytest.raises(PredictionError, match="the same labels, channels and axes, but the plans that 2d and 3d_full"):
        load_ensemble(run, choices, device="cpu")


def test_the_record_of_a_single_model_names_no_ensemble(run, image, tmp_path):
    request = PredictionRequest(configuration=CASCADE, options=OPTIONS, device="cpu")
    predict_images(run, image, tmp_path / "out", request=request, progress=SilentProgress())
    record = read_document(tmp_path / "out" / "prediction.json", PredictionRecord)
    assert (record.configuration, record.ensemble, len(record.weights_sha256)) == (CASCADE, (), 2)
    assert read_label_map(tmp_path / "out" / "case.nii.gz").array.shape == (12, 16, 14)
