import subprocess
import sys

import numpy as np
import pytest
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan

import autoseg
from autoseg.errors import PredictionError
from autoseg.geometry import Grid
from autoseg.processes.progress import SilentProgress
from autoseg.workflows.synthesize import synthesizing
from autoseg.workflows.synthesize.request import SynthesisRequest

SPACING_MM = (2.0, 1.5, 1.0)


@pytest.fixture
def run(tmp_path):
    write_trained_fold(tmp_path, build_plan({"3d_fullres": build_configuration((8, 8, 8))}), "3d_fullres", fold="0")
    return tmp_path


@pytest.fixture
def array():
    return np.random.default_rng(0).normal(size=(8, 9, 10))


def test_every_name_of_the_package_exists_and_the_api_offers_the_same():
    from autoseg import api

    assert {*api.__all__, "__version__"} == set(autoseg.__all__)
    assert all(getattr(autoseg, name) is not None for name in autoseg.__all__)


def test_a_wrong_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'autoseg' has no attribute 'predict'"):
        _ = autoseg.predict


def test_synthetic_cases_are_made_for_every_fold_unless_a_request_says_which(tmp_path, monkeypatch):
    calls = []

    def synthesize(run, request, *, progress):
        calls.append((run, request, type(progress)))
        return 7

    monkeypatch.setattr(synthesizing, "synthesize_cases", synthesize)
    chosen = SynthesisRequest(configuration="2d", folds=("0",), cases=2)
    assert autoseg.synthesize_cases(str(tmp_path)) == autoseg.synthesize_cases(tmp_path, chosen) == 7
    assert calls == [(tmp_path, request, SilentProgress) for request in (SynthesisRequest(), chosen)]


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import autoseg; autoseg.__version__", ("torch", "numpy", "SimpleITK", "nibabel")),
        ("import autoseg; autoseg.predict_volume; autoseg.load_model", ("SimpleITK", "nibabel")),
        ("import autoseg.workflows.predict.prediction", ("scipy.stats", "scipy.optimize")),
    ],
)
def test_importing_loads_no_more_than_it_needs(statement, unwanted):
    code = f"import sys; {statement}; print([name for name in {unwanted!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_volume_can_be_predicted_from_a_path_or_with_a_loaded_model(run, array):
    model = autoseg.load_model(run, device="cpu")
    grid = Grid(shape_voxels=(8, 9, 10), spacing_mm=SPACING_MM)
    expected = model.predict_volume(array[None].astype(np.float32), grid)
    assert len(np.unique(expected)) > 1
    for source, kind in ((model, {}), (run, {"device": "cpu"}), (str(run), {"device": "cpu", "folds": ["0"]})):
        found = autoseg.predict_volume(source, array, SPACING_MM, orientation="RAS", **kind)
        np.testing.assert_array_equal(found, expected)
    found = autoseg.predict_volume(model, array[None], SPACING_MM, orientation="RAS")
    np.testing.assert_array_equal(found, expected)


def test_options_reach_the_model(run, array):
    model = autoseg.load_model(run, device="cpu")
    options = autoseg.PredictionOptions(step_fraction=0.2)
    dense = autoseg.predict_volume(model, array, SPACING_MM, orientation="RAS", options=options)
    assert (dense != autoseg.predict_volume(model, array, SPACING_MM, orientation="RAS")).any()


def test_an_array_lies_like_the_training_images_unless_its_orientation_is_given(run, array):
    model = autoseg.load_model(run, device="cpu")
    with pytest.warns(
        autoseg.OrientationWarning, match=r"like the training images, RAS \(x to the right, y to the front, z to"
    ):
        expected = autoseg.predict_volume(model, array, SPACING_MM)
    np.testing.assert_array_equal(autoseg.predict_volume(model, array, SPACING_MM, orientation="RAS"), expected)
    flipped = autoseg.predict_volume(model, array[:, ::-1, ::-1], SPACING_MM, orientation="LPS")
    np.testing.assert_array_equal(flipped[:, ::-1, ::-1], expected)


@pytest.mark.parametrize("choice", [{"configuration": "2d"}, {"folds": ["0"]}, {"device": "cpu"}])
def test_choices_of_loading_are_refused_for_a_loaded_model(run, array, choice):
    model = autoseg.load_model(run, device="cpu")
    with pytest.raises(PredictionError, match="belong to load_model"):
        autoseg.predict_volume(model, array, SPACING_MM, **choice)


@pytest.mark.parametrize("spacing_mm", [(1.0, 0.0, 1.0), (1.0, float("nan"), 1.0), (-1.0, 1.0, 1.0), (1.0, 1.0), ()])
def test_a_spacing_that_is_not_positive_is_refused(run, array, spacing_mm):
    with pytest.raises(PredictionError, match="three positive numbers"):
        autoseg.predict_volume(run, array, spacing_mm, device="cpu")


@pytest.mark.parametrize("code", ["RAX", "RLS", "RA", "", "RASS"])
def test_an_impossible_orientation_is_refused(run, array, code):
    with pytest.raises(PredictionError, match="one letter of L/R"):
        autoseg.predict_volume(run, array, SPACING_MM, orientation=code, device="cpu")


@pytest.mark.parametrize("shape", [(8, 9), (1, 1, 8, 9, 10)])
def test_an_array_of_another_number_of_axes_is_refused(run, shape):
    with pytest.raises(PredictionError, match=r"\(channel, z, y, x\) or \(z, y, x\), found float64 of"):
        autoseg.predict_volume(run, np.zeros(shape), SPACING_MM, device="cpu")
