import json
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

import autoseg
from autoseg.document import read_document, write_document
from autoseg.errors import DocumentError, LockError, RunError
from autoseg.files.checksums import compute_sha256
from autoseg.geometry import Grid
from autoseg.processes import fold_lock
from autoseg.runtime import provenance
from autoseg.runtime.provenance import read_versions
from autoseg.volume_io import write_label_map
from autoseg.workflows.predict import prediction_folder
from autoseg.workflows.predict.folder_preparation import prepare_folder
from autoseg.workflows.predict.prediction_folder import (
    FINISHED_NAME,
    RECORD_NAME,
    PredictionRecord,
    complete_record,
    lock_record,
    write_recorded,
)


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_lock, "SECONDS_BETWEEN_ATTEMPTS", 0.002)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def build_record(*names: str, images: str = "/images", **changes: object) -> PredictionRecord:
    """The record of a prediction of some cases."""
    values = {
        "autoseg_version": "1",
        "model": "run",
        "images": images,
        "configuration": "2d",
        "folds": ("0",),
        "weights_sha256": ("abc",),
        "mirroring": True,
        "step_fraction": 0.5,
        "number_type": "float32",
        "probabilities": False,
        "outputs": {f"{name}.nii.gz": f"{name}_0000.nii.gz" for name in names},
        "versions": read_versions(),
    }
    return PredictionRecord(**values | changes)


def prepare(out: Path, record: PredictionRecord, *, overwrite: bool = False) -> PredictionRecord:
    with lock_record(out):
        prepared = prepare_folder(out, record, overwrite=overwrite)
        write_document(out / RECORD_NAME, prepared)
    return prepared


def predict(out: Path, record: PredictionRecord, *, overwrite: bool = False) -> None:
    """Does to a folder what a prediction does."""
    prepared = prepare(out, record, overwrite=overwrite)
    for name, image in record.outputs.items():
        with write_recorded(out / name, prepared) as temporary:
            temporary.write_text(f"label map of {image}")
    with lock_record(out):
        complete_record(out)


def read_record(out: Path) -> PredictionRecord:
    return read_document(out / RECORD_NAME, PredictionRecord)


def test_twenty_predictions_into_one_folder_at_the_same_time_lose_no_entry(out: Path) -> None:
    barrier = threading.Barrier(20, timeout=30)

    def predict_part(part: int) -> None:
        barrier.wait()
        predict(out, build_record(f"case{part}", f"other{part}"))

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(predict_part, range(20)))
    record = read_record(out)
    names = {f"{kind}{part}.nii.gz" for kind in ("case", "other") for part in range(20)}
    assert set(record.outputs) == names
    assert record.sha256 == {name: compute_sha256(out / name) for name in names}
    assert {path.name for path in out.iterdir()} == {RECORD_NAME, *names}


def test_parts_may_come_from_several_folders(out: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    predict(out, build_record("a", images=str(first)))
    predict(out, build_record("b", images=str(second)))
    predict(out, build_record("c", images=str(first)))
    record = read_record(out)
    assert record.images == str(first)
    assert record.outputs == {
        "a.nii.gz": "a_0000.nii.gz",
        "b.nii.gz": str(second / "b_0000.nii.gz"),
        "c.nii.gz": "c_0000.nii.gz",
    }
    prepare(out, build_record("b", images=str(second)))  # continues
    with pytest.raises(RunError, match=r"b\.nii\.gz was made of .*second/b_0000\.nii\.gz, not of b_0000"):
        prepare(out, build_record("b", images=str(first)))


def test_two_parts_cannot_write_one_label_map_of_two_images(out: Path) -> None:
    prepare(out, build_record("a", images="/first"))
    with pytest.raises(RunError, match=r"a\.nii\.gz was made of a_0000\.nii\.gz, not of /second/a_0000\.nii\.gz"):
        prepare(out, build_record("a", images="/second"))


def test_a_prediction_into_a_folder_that_another_model_replaced_ends(out: Path) -> None:
    record = prepare(out, build_record("a", "b"))
    prepare(out, build_record("a", configuration="3d_fullres"), overwrite=True)
    with (
        pytest.raises(RunError, match="configuration: 3d_fullres there, 2d now"),
        write_recorded(out / "b.nii.gz", record) as temporary,
    ):
        temporary.touch()
    assert not (out / "b.nii.gz").exists()


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_overwriting_leaves_files_that_a_record_names_and_no_prediction_made(out: Path, configuration: str) -> None:
    predict(out, build_record("a", "b"))
    (out / "mine.nii.gz").write_text("years of work")
    stolen = read_record(out)
    outputs = stolen.outputs | {"mine.nii.gz": "a_0000.nii.gz"}
    write_document(out / RECORD_NAME, stolen.model_copy(update={"outputs": outputs}))
    with pytest.raises(RunError, match=r"--overwrite leaves mine\.nii\.gz .* choose another folder"):
        prepare(out, build_record("a", "mine", configuration=configuration), overwrite=True)
    assert {path.name for path in out.glob("*.nii.gz")} == {"a.nii.gz", "b.nii.gz", "mine.nii.gz"}


def test_overwriting_leaves_label_maps_that_were_corrected_since(out: Path) -> None:
    predict(out, build_record("a", "b"))
    (out / "b.nii.gz").write_text("corrected by hand")
    with pytest.raises(RunError, match=r"--overwrite leaves b\.nii\.gz .* changed since"):
        predict(out, build_record("a", "b"), overwrite=True)
    assert (out / "a.nii.gz").exists()
    predict(out, build_record("a"), overwrite=True)
    assert (out / "b.nii.gz").read_text() == "corrected by hand"


def test_overwriting_leaves_files_in_a_folder_without_a_record(out: Path) -> None:
    (out / "a.nii.gz").write_text("of another tool")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"a\.nii\.gz"):
            predict(out, build_record("a"), overwrite=overwrite)
    assert (out / "a.nii.gz").read_text() == "of another tool"


@pytest.mark.parametrize("field", ["outputs", "sha256"])
@pytest.mark.parametrize(
    "name", ["../x.nii.gz", "/etc/passwd", "sub/x.nii.gz", "..", "", "C:x.nii.gz", "a\\b.mha", "x.py"]
)
def test_a_record_that_names_anything_but_label_maps_in_its_folder_is_refused(out: Path, field: str, name: str) -> None:
    record = build_record("a").model_copy(update={field: {name: "a_0000.nii.gz"}})
    write_document(out / RECORD_NAME, record)
    with pytest.raises(DocumentError, match=rf"prediction\.json: {field}: must name label maps in the folder itself"):
        prepare(out, build_record("a"), overwrite=True)


def test_a_case_with_an_odd_name_is_recorded(out: Path) -> None:
    predict(out, build_record("a b.c,ü'1.2"))
    assert list(read_record(out).sha256) == ["a b.c,ü'1.2.nii.gz"]


def test_a_file_that_cannot_be_written_is_not_recorded(out: Path) -> None:
    record = prepare(out, build_record("a"))
    with pytest.raises(ZeroDivisionError), write_recorded(out / "a.nii.gz", record):
        raise ZeroDivisionError
    assert read_record(out).sha256 == {}
    assert {path.name for path in out.iterdir()} == {RECORD_NAME}


def write(out: Path, record: PredictionRecord, name: str) -> None:
    with write_recorded(out / name, record) as temporary:
        temporary.write_text(f"label map {name}")


def test_files_of_a_killed_prediction_are_known_to_the_next_one(out: Path) -> None:
    record = prepare(out, build_record("a", "b"))
    write(out, record, "a.nii.gz")
    with (out / FINISHED_NAME).open("a") as lines:
        lines.write('{"name": "b.nii')  # cut off
    write(out, record, "b.nii.gz")
    prepare(out, build_record("a", "b"))
    assert read_record(out).sha256 == {name: compute_sha256(out / name) for name in ("a.nii.gz", "b.nii.gz")}
    assert not (out / FINISHED_NAME).exists()
    write(out, record, "b.nii.gz")
    prepare(out, build_record("a", configuration="3d_fullres"), overwrite=True)
    assert {path.name for path in out.iterdir()} == {RECORD_NAME}
    assert read_record(out).sha256 == {}


def test_a_line_about_a_file_elsewhere_is_ignored_with_a_warning(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    predict(out, build_record("a"))
    line = {"name": "../x.nii.gz", "image": "a", "sha256": {"../x.nii.gz": "0" * 64}}
    (out / FINISHED_NAME).write_text(json.dumps(line))
    prepare(out, build_record("a"))
    assert set(read_record(out).outputs) == {"a.nii.gz"}
    assert "a line is damaged" in caplog.text


def test_the_record_is_neither_read_nor_written_for_each_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = prepare(out, build_record("a", "b", "c"))
    write(out, record, "a.nii.gz")
    monkeypatch.setattr(prediction_folder, "read_document", None)
    monkeypatch.setattr(prediction_folder, "write_document", None)
    write(out, record, "b.nii.gz")
    write(out, record, "c.nii.gz")
    monkeypatch.undo()
    prepare(out, build_record("a"))
    assert len(read_record(out).sha256) == 3


def test_errors_name_the_file_that_was_to_be_written(out: Path) -> None:
    record = prepare(out, build_record("a"))
    grid = Grid(shape_voxels=(2, 3, 4), spacing_mm=(1.0, 1.0, 1.0))

    def write_over_folder() -> None:
        with write_recorded(out / "a.nii.gz", record) as temporary:
            temporary.mkdir()
            write_label_map(temporary, np.ones(grid.shape_voxels, np.uint8), grid=grid, like=None)

    with pytest.raises(RunError) as raised:
        write_over_folder()
    assert str(out / "a.nii.gz") in str(raised.value)
    assert "-autoseg-" not in str(raised.value)


def test_a_folder_without_locks_is_written_with_a_warning(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(file: object, *, is_shared: bool) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fold_lock, "_lock", refuse)
    predict(out, build_record("a"))
    assert set(read_record(out).sha256) == {"a.nii.gz"}
    assert "Operation not supported" in caplog.text
    assert "only one prediction at a time" in caplog.text
    with pytest.raises(LockError), fold_lock.wait_for_lock(out / "lock", on_wait=list):
        pass


def test_a_record_that_another_process_never_releases_is_named(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_folder, "LONGEST_LOCK_SECONDS", 0.0)
    with lock_record(out), pytest.raises(RunError, match=r"another process holds the lock .*prediction\.lock"):
        prepare(out, build_record("a"))


def test_versions_are_recorded_where_autoseg_runs_from_its_sources_and_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find(name: str) -> str:
        if name == "autoseg":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(provenance, "version", find)
    assert (read_versions().autoseg, read_versions().torch) == (autoseg.__version__, "1.0")
