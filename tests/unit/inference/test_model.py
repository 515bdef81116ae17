import numpy as np
import pytest
import torch
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan, build_transforms

from autoseg.document import write_document
from autoseg.errors import DeviceError, PredictionError, RunError
from autoseg.geometry import Grid, compute_reorientation
from autoseg.inference.model import load_model
from autoseg.inference.options import PredictionOptions
from autoseg.inference.sliding_window.mirroring import ChannelExchange
from autoseg.inference.sliding_window.prediction import predict_logits
from autoseg.run_folder import RunFolder

PLAIN_WINDOWS = PredictionOptions(mirroring=False)


@pytest.fixture
def plan():
    return build_plan(
        {
            "2d": build_configuration((8, 8), spacing_mm=(1.5, 1.5)),
            "3d_fullres": build_configuration((8, 8, 8), spacing_mm=(2.0, 1.5, 1.5), mirror_axes=(0, 2)),
        }
    )


@pytest.fixture
def train(tmp_path, plan):
    def write(configuration="3d_fullres", *, by=plan, fold="0", seed=0):
        return write_trained_fold(tmp_path, by, configuration, fold=fold, seed=seed)

    return write


@pytest.fixture
def load(tmp_path):
    def load(*, precision="float32", **options):
        return load_model(tmp_path, device="cpu", precision=precision, **options)

    return load


@pytest.fixture
def volume():
    array = np.random.default_rng(0).normal(size=(1, 12, 14, 13)).astype(np.float32)
    return array, Grid(shape_voxels=(12, 14, 13), spacing_mm=(1.0, 1.0, 1.0))


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_model_predicts_on_the_grid_of_the_volume_in_the_values_of_the_files(train, load, volume, configuration):
    train(configuration)
    model = load()
    label_map = model.predict_volume(*volume)
    assert model.configuration == configuration
    assert label_map.shape == (12, 14, 13)
    assert label_map.dtype == np.uint8
    assert set(np.unique(label_map)) <= {0, 5, 9}
    assert len(np.unique(label_map)) > 1


def test_probabilities_belong_to_the_label_map(train, load, volume):
    train()
    model = load()
    probabilities = model.predict_probabilities(*volume)
    assert probabilities.shape == (3, 12, 14, 13)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1, atol=1e-5)
    expected = np.array([0, 5, 9])[probabilities.argmax(axis=0)]
    assert (model.predict_volume(*volume) == expected).mean() > 0.999


def test_mirroring_uses_the_axes_of_the_plan(plan, train, load, volume):
    network = train().eval()
    model = load()
    image = model.preprocess(*volume).image
    for options, axes in ((PredictionOptions(), (0, 2)), (PLAIN_WINDOWS, ())):
        expected = predict_logits(
            network,
            torch.from_numpy(image),
            configuration=plan.configurations["3d_fullres"],
            mirror_axes=axes,
            device=torch.device("cpu"),
        )
        torch.testing.assert_close(model.predict_preprocessed(image, options=options), expected)


def test_mirroring_exchanges_the_channels_of_paired_labels_also_in_constant_windows(plan, train, load, volume):
    pairs = build_transforms(mirror_pairs={"axis": 2, "pairs": ((1, 2),)})
    configuration = plan.configurations["3d_fullres"]
    training = configuration.training.model_copy(update={"transforms": pairs})
    sided = configuration.model_copy(update={"training": training})
    network = train(by=plan.model_copy(update={"configurations": {"3d_fullres": sided}})).eval()
    model = load()
    image = model.preprocess(*volume).image
    found = model.predict_preprocessed(image)
    options = {"configuration": sided, "mirror_axes": (2,), "device": torch.device("cpu")}
    exchange = ChannelExchange(axis=2, order=(0, 2, 1))
    torch.testing.assert_close(found, predict_logits(network, torch.from_numpy(image), exchange=exchange, **options))
    assert not torch.allclose(found, predict_logits(network, torch.from_numpy(image), **options))
    left, right = model.predict_preprocessed(np.zeros((1, 8, 8, 8), np.float32))[1:]
    torch.testing.assert_close(left, right.flip(2))


def test_reduced_precision_is_taken_over_by_the_model_and_keeps_its_logits(train, load, volume):
    train()
    reference, reduced = load(), load(precision="bfloat16")
    assert (reference.dtype, reduced.dtype) == ("float32", "bfloat16")
    assert "float32 on cpu" in reference.describe()
    image = reference.preprocess(*volume).image
    expected, found = (model.predict_preprocessed(image, options=PLAIN_WINDOWS) for model in (reference, reduced))
    assert 0 < (found - expected).abs().mean() < 0.02 * expected.std()


def test_patches_per_pass_are_measured_on_loading_and_used(train, load, volume):
    train()
    model = load()
    assert model.inference_batch_size is not None
    sizes = []
    model.networks[0].register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    model.predict_preprocessed(model.preprocess(*volume).image)
    whole_windows = min(model.inference_batch_size, 4 * max(1, model.inference_batch_size // 4))
    assert max(sizes) == min(whole_windows, sum(sizes))


def test_nothing_around_the_nonzero_region_reaches_the_network(train, load, volume):
    train()
    model = load()
    array, grid = volume
    large = np.zeros((1, 30, 40, 50), np.float32)
    place = (slice(None), slice(5, 17), slice(20, 34), slice(30, 43))
    large[place] = array
    case = model.preprocess(large, Grid(shape_voxels=(30, 40, 50), spacing_mm=grid.spacing_mm))
    np.testing.assert_array_equal(case.image, model.preprocess(array, grid).image)
    label_map = model.predict_volume(large, Grid(shape_voxels=(30, 40, 50), spacing_mm=grid.spacing_mm))
    np.testing.assert_array_equal(label_map[place[1:]], model.predict_volume(array, grid))
    label_map[place[1:]] = 0
    assert not label_map.any()


def test_all_trained_folds_are_loaded_and_averaged(train, load, volume):
    for fold in ("0", "1"):
        train(fold=fold, seed=int(fold))
    both = load()
    singles = [load(folds=[fold]) for fold in ("0", "1")]
    assert (both.folds, singles[0].folds, singles[1].folds) == (("0", "1"), ("0",), ("1",))
    image = both.preprocess(*volume).image
    first, second = (model.predict_preprocessed(image, options=PLAIN_WINDOWS) for model in singles)
    assert not torch.allclose(first, second, atol=0.01)
    mean = both.predict_preprocessed(image, options=PLAIN_WINDOWS)
    torch.testing.assert_close(mean, (first + second) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("code", ["LPS", "SAR"])
def test_the_same_anatomy_in_another_orientation_gets_the_same_labels(train, load, volume, code):
    train()
    model = load()
    array, grid = volume
    change = compute_reorientation("RAS", code)
    turned = np.ascontiguousarray(change.apply(array))
    expected = change.apply(model.predict_volume(array, grid, options=PLAIN_WINDOWS))
    found = model.predict_volume(turned, change.apply_to_grid(grid), options=PLAIN_WINDOWS)
    assert (found == expected).mean() > 0.999


def test_the_plan_of_the_training_counts_and_not_a_newer_one_of_the_run(tmp_path, plan, train, load):
    train()
    write_document(RunFolder(tmp_path).plan, plan.model_copy(update={"orientation": "LPS"}))
    assert load().plan.orientation == "RAS"


def test_folds_of_different_plans_are_not_mixed(train, load):
    train()
    other = build_plan({"3d_fullres": build_configuration((16, 8, 8), spacing_mm=(2.0, 1.5, 1.5))})
    train(by=other, fold="1")
    with pytest.raises(PredictionError, match=r"fold_1.plan\.json and .*fold_0.plan\.json differ for 3d_fullres"):
        load()


def test_a_changed_number_of_epochs_does_not_separate_folds(plan, train, load):
    train()
    part = plan.configurations["3d_fullres"]
    longer = part.model_copy(update={"training": part.training.model_copy(update={"epochs": 7})})
    train(by=plan.model_copy(update={"configurations": {"3d_fullres": longer}}), fold="1")
    assert load().folds == ("0", "1")


@pytest.fixture
def other_plan():
    part = build_configuration((8, 8, 8))
    wider = part.network.model_copy(update={"features_per_stage": (8, 8)})
    return build_plan({"3d_fullres": part.model_copy(update={"network": wider})})


def test_weights_of_another_network_are_refused(tmp_path, train, load, other_plan):
    train()
    write_document(RunFolder(tmp_path).fold("3d_fullres", "0").plan, other_plan)
    with pytest.raises(PredictionError, match=r"checkpoint_final.* do not fit the network of .*plan\.json: .*size mis"):
        load()


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        load_model(tmp_path / "nothing")


def test_an_unknown_device_is_refused_before_anything_is_loaded(tmp_path, plan):
    write_document(RunFolder(tmp_path).plan, plan)
    with pytest.raises(DeviceError, match="'gpu'"):
        load_model(tmp_path, device="gpu")


def break_channels(array):
    return np.concatenate([array, array])


def break_values(array):
    array[0, 0, 0, :3] = [np.nan, np.inf, -np.inf]
    return array


def break_shape(array):
    return array[:, 1:]


@pytest.mark.parametrize(
    "spoiled",
    [
        (break_channels, r"takes 1 channel \(CT\), found 2"),
        (break_values, "must be finite numbers, found 3 voxels with NaN or infinity in channel 0"),
        (break_shape, r"shape of its grid, \(12, 14, 13\) \(z, y, x\), found \(11, 14, 13\)"),
    ],
)
def test_a_volume_that_does_not_fit_is_refused(train, load, volume, spoiled):
    array, grid = volume
    train()
    spoil, message = spoiled
    with pytest.raises(PredictionError, match=message):
        load().predict_volume(spoil(array), grid)
