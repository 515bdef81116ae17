"""Synthetic cases in a training: they train, and nothing else."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders.geometries import build_geometry
from builders.progress import skip_drawing

from autoseg.errors import TrainingError
from autoseg.networks import read_weights
from autoseg.preprocessing.cache import write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import find_class_locations
from autoseg.run_folder import FoldFolder
from autoseg.training.data.batches import BatchSource, build_batch_source
from autoseg.training.data.randomness import BatchKey, Phase
from autoseg.training.data.synthetic_cases import SyntheticCases, remember_synthetic_cases
from autoseg.training.options import TrainingOptions
from autoseg.training.trainer import train

SYNTHETIC_VALUE = 1000.0
CPU = torch.device("cpu")

_no_drawing = pytest.fixture(autouse=True)(skip_drawing)


@pytest.fixture
def synthetic(tmp_path, labels) -> SyntheticCases:
    """Two cases of one slice that no other case could be taken for."""
    for name in ("synthetic_0001", "synthetic_0002"):
        label_map = np.zeros((1, 24, 26), dtype=np.int16)
        label_map[0, 4:9, 4:9] = 1
        image = np.full((1, *label_map.shape), SYNTHETIC_VALUE, dtype=np.float32)
        case = PreprocessedCase(image=image, label_map=label_map, geometry=build_geometry(label_map.shape))
        locations = find_class_locations(label_map, labels)
        write_case(tmp_path / "synthetic", name, case, locations=locations, patch_voxels=(16, 16))
    names = ("synthetic_0001", "synthetic_0002")
    return SyntheticCases(folder=tmp_path / "synthetic", names=names, digest="made")


def build_source(plan, data, synthetic=None):
    return build_batch_source(plan, data.channels, data_folder=data.folder, fold=data.fold, seed=0, synthetic=synthetic)


def list_keys(stream: str, count: int = 6, **changes) -> list[BatchKey]:
    return [BatchKey(stream=stream, epoch=0, iteration=index, **changes) for index in range(count)]


def count_synthetic(source, keys) -> int:
    return sum(int((source.make_batch(key).image > SYNTHETIC_VALUE / 2).flatten(1).any(1).sum()) for key in keys)


@pytest.mark.parametrize(
    ("choice", "fraction"),
    [("class", 0.0), ("class", 0.5), ("class_balanced", 0.5), ("class_balanced", 1.0), ("component", 0.5)],
)
def test_they_give_the_planned_share_of_training_samples_and_never_one_of_validation(
    plan_configuration, training_data, synthetic, *, choice: str, fraction: float
) -> None:
    plan = plan_configuration(transforms=(), synthetic_fraction=fraction, batch_size=4, foreground_choice=choice)
    source = build_source(plan, training_data, synthetic)
    training = count_synthetic(source, list_keys("training"))
    assert {0.0: training == 0, 0.5: 4 <= training <= 20, 1.0: training == 24}[fraction]
    assert count_synthetic(source, list_keys("validation")) == 0
    assert not set(synthetic.names) & set(source.validation.sampler.all_names)
    assert count_synthetic(source, list_keys("training", phase=Phase(is_augmented=False))) == training
    assert count_synthetic(source, list_keys("training", phase=Phase(takes_synthetic=False))) == 0


def test_batches_without_them_are_those_of_any_fraction(plan_configuration, training_data) -> None:
    plain, other = (
        build_source(plan_configuration(synthetic_fraction=fraction), training_data) for fraction in (0.5, 1.0)
    )
    for key in list_keys("training", 2):
        assert torch.equal(plain.make_batch(key).image, other.make_batch(key).image)


def run_training(plan, data, output, *, after: int | None = None) -> None:
    options = TrainingOptions(device=CPU, seed=0, workers=0, seconds_between_checkpoints=0.0)
    for number, _ in enumerate(train(plan, data, output=output, options=options)):
        if after is not None and number == after:
            return


@pytest.mark.parametrize(("has_synthetic", "expected"), [(True, [True, True, False, False]), (False, [True] * 4)])
def test_they_train_until_the_planned_share_of_the_training_is_left(
    plan_configuration, training_data, synthetic, tmp_path, *, monkeypatch, has_synthetic: bool, expected: list[bool]
) -> None:
    keys: list[BatchKey] = []
    make = BatchSource.make_batch
    monkeypatch.setattr(BatchSource, "make_batch", lambda source, key: keys.append(key) or make(source, key))
    plan = plan_configuration(epochs=4, iterations_per_epoch=1, synthetic_end_fraction=0.5)
    data = replace(training_data, synthetic=synthetic) if has_synthetic else training_data
    run_training(plan, data, FoldFolder(tmp_path / "fold"))
    assert [key.phase.takes_synthetic for key in keys if key.stream == "training"] == expected


def test_a_resumed_training_is_bit_equal_and_others_are_not_continued(
    plan_configuration, training_data, synthetic, tmp_path
) -> None:
    changes = {"epochs": 2, "iterations_per_epoch": 2, "synthetic_end_fraction": 0.5}
    plan, data = plan_configuration(**changes), replace(training_data, synthetic=synthetic)
    whole, parts = FoldFolder(tmp_path / "whole"), FoldFolder(tmp_path / "parts")
    run_training(plan, data, whole)
    run_training(plan, data, parts, after=6)
    assert parts.latest_checkpoint.is_file()
    for other in (training_data, replace(training_data, synthetic=replace(synthetic, digest="other"))):
        with pytest.raises(TrainingError, match=r"the synthetic cases \(--synthetic\) changed"):
            run_training(plan, other, parts)
    run_training(plan, data, parts)
    first, second = read_weights(whole.final_checkpoint), read_weights(parts.final_checkpoint)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    gone = replace(data, synthetic=remember_synthetic_cases(synthetic.digest))
    run_training(plan, gone, whole)  # is finished
    whole.final_checkpoint.unlink()
    with pytest.raises(TrainingError, match="takes synthetic cases; give --synthetic"):
        run_training(plan, gone, whole)
