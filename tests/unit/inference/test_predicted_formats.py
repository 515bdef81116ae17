"""Predictions in every format: formats of two files keep both, and the grid."""

import numpy as np
import pytest
from builders.folds import write_trained_fold
from builders.plans import build_configuration, build_plan

from autoseg.document import read_document
from autoseg.errors import CasesFailedError, RunError
from autoseg.file_endings import WRITABLE_ENDINGS, label_map_ending
from autoseg.files import temporary_files
from autoseg.files.checksums import compute_sha256
from autoseg.files.temporary_files import name_temporary, remove_leftovers
from autoseg.geometry import Grid
from autoseg.inference.model import load_model
from autoseg.inference.options import PredictionOptions
from autoseg.processes.progress import SilentProgress
from autoseg.untrusted.names import LONGEST_COMPONENT_BYTES, LONGEST_NAME_BYTES
from autoseg.volume_io import check_same_grid, read_image, read_label_map, write_image, write_label_map
from autoseg.workflows.predict.prediction import PredictionRequest, predict_images
from autoseg.workflows.predict.prediction_folder import PredictionRecord

LPS = ((0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, 0.0))  # the only one that some formats hold
GRID = Grid(shape_voxels=(9, 10, 11), spacing_mm=(1.0, 1.5, 1.0), direction=LPS)
OPTIONS = PredictionOptions(mirroring=False)
VOLUME_ENDINGS = [ending for ending in WRITABLE_ENDINGS if label_map_ending(ending) not in (".png", ".bmp")]
SECOND_FILES = {".mhd": ".zraw", ".nhdr": ".raw.gz", ".hdr": ".img", ".img": ".hdr", ".tif": ".json", ".nii.gz": None}


def make_run(tmp_path, ending):
    plan = build_plan({"3d_fullres": build_configuration((8, 8, 8))}, file_ending=ending)
    write_trained_fold(tmp_path / "run", plan, "3d_fullres", fold="0")
    return tmp_path / "run"


def write_source(path):
    write_image(path, np.random.default_rng(0).normal(size=GRID.shape_voxels).astype(np.float32), grid=GRID)
    return path


def predict(run, images, out, **choices):
    request = PredictionRequest(options=OPTIONS, device="cpu", precision="float32", **choices)
    return predict_images(run, images, out, request=request, progress=SilentProgress())


@pytest.mark.parametrize("ending", list(SECOND_FILES))
def test_a_predicted_file_reads_back_as_what_the_network_says(tmp_path, ending, monkeypatch):
    run, out = make_run(tmp_path, ending), tmp_path / "out"
    image = write_source(tmp_path / "images" / f"case.1{ending}")
    predict(run, tmp_path / "images", out)
    with monkeypatch.context() as later:  # another process writes there afterwards
        later.setattr(temporary_files, "_is_alive", lambda match: False)
        remove_leftovers(out)
    volume = read_image([image])
    expected = load_model(run, device="cpu", precision="float32").predict_volume(
        volume.array, volume.grid, options=OPTIONS
    )
    for overwrite in (False, True):
        assert predict(run, tmp_path / "images", out, overwrite=overwrite).written == int(overwrite)
        found = read_label_map(out / f"case.1{ending}")
        np.testing.assert_array_equal(found.array, expected)
        check_same_grid(volume.grid, found.grid, what="prediction")
    second = SECOND_FILES[ending]
    names = {f"case.1{ending}"} if second is None else {f"case.1{ending}", f"case.1{second}"}
    assert {path.name for path in out.iterdir()} == {*names, "plan.json", "prediction.json", "quality.json"}
    record = read_document(out / "prediction.json", PredictionRecord)
    assert record.sha256 == {name: compute_sha256(out / name) for name in names}
    if second is not None:
        (out / f"case.1{second}").write_bytes(b"corrected by hand")
        with pytest.raises(RunError, match=r"--overwrite leaves case\.1\."):
            predict(run, tmp_path / "images", out, overwrite=True)


def test_a_second_file_of_the_user_is_never_replaced(tmp_path):
    run, out = make_run(tmp_path, ".tif"), tmp_path / "out"
    write_source(tmp_path / "images" / "case.tif")
    out.mkdir()
    (out / "case.json").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"case\.json"):
            predict(run, tmp_path / "images", out, overwrite=overwrite)
    assert (out / "case.json").read_text() == "years of work"


@pytest.mark.parametrize("name", ["plan", "prediction"])
def test_a_second_file_never_replaces_the_record_or_the_plan(tmp_path, name):
    run, out = make_run(tmp_path, ".tif"), tmp_path / "out"
    write_source(tmp_path / "images" / f"{name}.tif")
    with pytest.raises(RunError, match=rf"{name}\.json has another meaning there; rename the image"):
        predict(run, tmp_path / "images", out)
    assert not out.exists() or not any(out.iterdir())


def test_names_with_colons_are_predicted(tmp_path):
    run, out = make_run(tmp_path, ".nii.gz"), tmp_path / "out"
    for name in ("scan_12:30", "scan_12:31"):
        write_source(tmp_path / "images" / f"{name}.nii.gz")
    assert predict(run, tmp_path / "images", out).written == 2
    assert predict(run, tmp_path / "images", out).kept == 2


def test_an_image_whose_name_cannot_be_recorded_does_not_stop_the_others(tmp_path):
    run, out = make_run(tmp_path, ".nii.gz"), tmp_path / "out"
    for name in ("C:b", "c"):
        write_source(tmp_path / "images" / f"{name}.nii.gz")
    with pytest.raises(CasesFailedError, match=r"'C:b': no label map .*drive of Windows; rename the image"):
        predict(run, tmp_path / "images", out)
    assert [path.name for path in out.glob("*.nii.gz")] == ["c.nii.gz"]


@pytest.mark.parametrize("ending", WRITABLE_ENDINGS)
def test_the_longest_name_can_be_written_in_every_format(tmp_path, ending):
    name = "n" * LONGEST_NAME_BYTES
    is_picture = ending not in VOLUME_ENDINGS
    grid = Grid(shape_voxels=(1, 8, 8), spacing_mm=(999.0, 1.0, 1.0), is_oriented=False) if is_picture else GRID
    label_map = np.ones(grid.shape_voxels, np.uint8)
    ending = label_map_ending(ending)
    write_label_map(tmp_path / f"{name}{ending}", label_map, grid=grid, like=None)
    np.testing.assert_array_equal(read_label_map(tmp_path / f"{name}{ending}").array, label_map)
    for longest in (".previous.b2nd", ".previous.json", ".source.json", "_0000.gipl.gz"):
        assert len(name_temporary(tmp_path / f"{name}{longest}").name) <= LONGEST_COMPONENT_BYTES


@pytest.mark.parametrize("ending", [".nii.gz", ".mhd"])
def test_a_case_of_the_longest_name_is_predicted(tmp_path, ending):
    run, out = make_run(tmp_path, ending), tmp_path / "out"
    name = "n" * LONGEST_NAME_BYTES
    write_source(tmp_path / "images" / f"{name}{ending}")
    assert predict(run, tmp_path / "images", out, save_probabilities=True).written == 1
    assert (out / f"{name}{ending}").is_file()
