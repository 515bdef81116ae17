"""Attention maps are written beside the label maps, which stay as they are."""

import nibabel
import numpy as np
import pytest
import torch
from builders.folds import write_trained_fold
from builders.networks import build_small_network_plan
from builders.plans import build_configuration, build_plan
from builders.progress import Notes

from autoseg.document import read_document, write_document
from autoseg.errors import PredictionError
from autoseg.geometry import Grid
from autoseg.inference.model import load_model
from autoseg.inference.options import PredictionOptions
from autoseg.networks.attention_maps import find_attention_maps
from autoseg.plan import Plan
from autoseg.run_folder import RunFolder
from autoseg.volume_io import read_image, read_label_map, write_image
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images

GRID = Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.5, 1.0))
GATES = {"skip": {"name": "attention_gate", "signal": "below", "gates": 1, "reduction": 1}}


@pytest.fixture(autouse=True)
def enough_memory(monkeypatch):
    """Counting what a network needs takes longer than these predictions."""
    monkeypatch.setattr("autoseg.inference.model.check_prediction_memory", lambda *_, **__: None)


@pytest.fixture
def images(tmp_path):
    image = np.random.default_rng(0).normal(size=GRID.shape_voxels).astype(np.float32)
    write_image(tmp_path / "images" / "case_0000.nii.gz", image, grid=GRID)
    return tmp_path / "images"


@pytest.fixture
def make_run(tmp_path):
    def make(name, dimensions=3, **changes):
        network = build_small_network_plan(name, dimensions, input_channels=1, output_channels=3, **changes)
        patch, called = ((8, 8, 8), "3d_fullres") if dimensions == 3 else ((8, 8), "2d")
        configuration = build_configuration(patch, data_of=called).model_copy(update={"network": network})
        write_trained_fold(tmp_path / "run", build_plan({called: configuration}), called, fold="0")
        return tmp_path / "run"

    return make


def predict(run, images, out="out", *, mirroring=False, **choices):
    chosen = {"precision": "float32", "execution": "eager"} | choices
    request = PredictionRequest(options=PredictionOptions(mirroring=mirroring), device="cpu", **chosen)
    predict_images(run, images, run.parent / out, request=request, progress=Notes())
    return run.parent / out


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(
    ("name", "changes", "titles"),
    [("u_shaped", GATES, {"gate_0", "gate_1"}), ("shape stream", {}, {"edges"})],
    ids=["gates", "edges"],
)
def test_a_map_of_every_gate_and_of_edges_is_written_on_the_grid_of_the_image(
    make_run, images, *, dimensions, name, changes, titles
) -> None:
    run = make_run(name, dimensions, **changes)
    mirroring = dimensions == 2  # four views of a slice, where a volume would have eight
    plain = predict(run, images, "plain", mirroring=mirroring)
    out = predict(run, images, attention_maps=True, mirroring=mirroring)
    expected = read_label_map(plain / "case.nii.gz")
    np.testing.assert_array_equal(read_label_map(out / "case.nii.gz").array, expected.array)
    assert {path.name for path in out.glob("*.nii.gz")} == {"case.nii.gz"}
    assert {path.name for path in (out / "attention_maps").iterdir()} == {f"case_{title}.nii.gz" for title in titles}
    for path in (out / "attention_maps").iterdir():
        image = nibabel.load(path)
        assert image.get_data_dtype() == np.uint8
        found = read_label_map(path)
        assert found.grid == expected.grid
        assert len(np.unique(found.array)) > 2


def test_the_map_is_what_the_gate_computes(make_run, images) -> None:
    run = make_run("u_shaped", **GATES)
    flat = Grid(shape_voxels=(8, 8, 8), spacing_mm=(1.0, 1.0, 1.0))
    image = np.random.default_rng(1).normal(size=flat.shape_voxels).astype(np.float32)
    write_image(images / "case_0000.nii.gz", image, grid=flat)  # a single window
    request = PredictionRequest(
        options=PredictionOptions(mirroring=False), device="cpu", precision="float32", attention_maps=True
    )
    predict_images(run, images, run.parent / "out", request=request, progress=Notes())
    model = load_model(run, device="cpu", precision="float32", execution="eager")
    volume = read_image([images / "case_0000.nii.gz"])
    case = model.preprocess(volume.array, volume.grid)
    maps = []
    find_attention_maps(model.networks[0])["gate_0"].register_forward_hook(lambda *call: maps.append(call[2]))
    model.predict_case(case, options=PredictionOptions(mirroring=False))
    (alpha,) = maps
    enlarged = torch.nn.functional.interpolate(alpha, size=(8, 8, 8), mode="trilinear")[0, 0].numpy()
    found = read_label_map(run.parent / "out" / "attention_maps" / "case_gate_0.nii.gz").array
    np.testing.assert_allclose(found / 255, enlarged, atol=0.5 / 255 + 1e-6)


def test_a_repeated_call_writes_what_is_missing(make_run, images) -> None:
    run = make_run("shape stream")
    out = predict(run, images, attention_maps=True)
    (path,) = (out / "attention_maps").iterdir()
    content = path.read_bytes()
    path.unlink()
    predict(run, images, attention_maps=True)
    assert path.read_bytes() == content
    with pytest.raises(PredictionError, match=r"attention_maps holds the attention maps of an earlier prediction"):
        predict(run, images)


def test_overwriting_with_another_model_leaves_no_map_of_the_earlier_one(make_run, images) -> None:
    predict(make_run("u_shaped", **GATES), images, attention_maps=True)
    out = predict(make_run("shape stream"), images, attention_maps=True, overwrite=True)
    assert [path.name for path in (out / "attention_maps").iterdir()] == ["case_edges.nii.gz"]


@pytest.mark.parametrize(
    ("name", "choices", "words"),
    [
        ("u_shaped", {}, r"the network of 3d_fullres \(u_shaped\) computes no attention maps: predict without"),
        ("shape stream", {"execution": "compiled"}, "attention maps need the execution 'eager', found 'compiled'"),
    ],
)
def test_what_cannot_give_maps_is_refused_by_name_before_anything_is_written(
    make_run, images, *, name, choices, words
) -> None:
    run = make_run(name)
    with pytest.raises(PredictionError, match=words):
        predict(run, images, attention_maps=True, **choices)
    assert not (run.parent / "out").exists()


def test_a_fold_that_was_trained_by_another_plan_without_maps_is_refused(make_run, images) -> None:
    run = make_run("u_shaped")
    plan = read_document(RunFolder(run).plan, Plan)
    network = build_small_network_plan("shape stream", 3, input_channels=1, output_channels=3)
    configuration = plan.configurations["3d_fullres"].model_copy(update={"network": network})
    write_document(RunFolder(run).plan, plan.model_copy(update={"configurations": {"3d_fullres": configuration}}))
    with pytest.raises(PredictionError, match=r"the network of 3d_fullres \(u_shaped\) computes no attention maps"):
        predict(run, images, attention_maps=True)
