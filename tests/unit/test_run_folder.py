import errno
import os
import sys
from pathlib import Path

import pytest

from autoseg import run_folder
from autoseg.errors import RunError
from autoseg.run_folder import (
    FoldFolder,
    RunFolder,
    make_folder,
    open_run,
    write_atomically,
    write_folder_atomically,
    write_text,
)


def collect_paths(folder: RunFolder | FoldFolder) -> dict[str, Path]:
    names = [name for name, value in vars(type(folder)).items() if isinstance(value, property)]
    assert names
    return {name: getattr(folder, name) for name in names}


def test_all_names_lie_in_the_run_and_differ():
    run = RunFolder(Path("run"))
    fold = run.fold("3d_fullres", "0")
    paths = [*collect_paths(run).values(), *collect_paths(fold).values(), run.preprocessed("2d"), fold.root]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to("run") for path in paths)


def test_folds_and_configurations_have_their_own_folders():
    run = RunFolder(Path("run"))
    assert run.fold("2d", "all").root == Path("run/models/2d/fold_all")
    assert run.fold("2d", "1").final_checkpoint == Path("run/models/2d/fold_1/checkpoint_final.safetensors")
    assert run.preprocessed("2d") == Path("run/preprocessed/2d")
    assert run.configuration_models("2d") == Path("run/models/2d")


def test_a_run_is_opened_by_its_plan(tmp_path):
    with pytest.raises(RunError, match=r"no run folder at .*make one with: autoseg plan DATASET --run"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"holds no plan\.json"):
        open_run(tmp_path)
    (tmp_path / "model.zip").touch()
    with pytest.raises(RunError, match=r"model\.zip is a file.*make one with: autoseg import .*model\.zip RUN"):
        open_run(tmp_path / "model.zip")
    (tmp_path / "plan.json").touch()
    assert open_run(tmp_path) == RunFolder(tmp_path)


def test_folders_are_made_with_their_parents(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    make_folder(tmp_path / "a" / "b")


def test_a_file_where_a_folder_should_be_is_an_error(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(RunError, match="cannot create the folder"):
        make_folder(tmp_path / "a")
    with pytest.raises(RunError, match="cannot create the folder"):
        write_text(tmp_path / "a" / "b.txt", "x")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_is_an_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match="is not writable"):
        make_folder(tmp_path)


def test_text_is_written_whole(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "größer\n")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "größer\n"
    write_text(tmp_path / "new" / "a.txt", "other")
    assert (tmp_path / "new" / "a.txt").read_text() == "other"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


@pytest.mark.parametrize(("is_durable", "flushes"), [(True, 1), (False, 0)])
def test_only_what_must_last_is_flushed_to_the_disk(tmp_path, monkeypatch, is_durable, flushes):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    write_text(tmp_path / "a.txt", "x", is_durable=is_durable)
    assert len(flushed) == flushes
    assert (tmp_path / "a.txt").read_text() == "x"


def write_and_fail(path: Path, failure: type[BaseException]) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text("new")
        raise failure


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "a.nii.gz"
    path.write_text("old")
    with pytest.raises(failure):
        write_and_fail(path, failure)
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["a.nii.gz"]


def test_the_temporary_file_is_hidden_beside_the_final_one_with_its_ending(tmp_path):
    path = tmp_path / "case.1.nii.gz"
    with write_atomically(path) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".nii.gz")
        assert not path.exists()
    assert path.exists()


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a.txt"
    with write_atomically(path) as first, write_atomically(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert [child.name for child in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(RunError, match=r"cannot write .*a\.txt: No space left"), write_atomically(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_written_files_have_the_permissions_that_the_umask_grants(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_writer_that_puts_its_own_file_in_place_does_not_change_the_permissions(tmp_path):
    before = os.umask(0o027)
    try:
        with write_atomically(tmp_path / "a.txt") as temporary:
            (tmp_path / "private").write_text("x")
            (tmp_path / "private").chmod(0o600)
            (tmp_path / "private").replace(temporary)
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def write_folder(path: Path, text: str) -> None:
    with write_folder_atomically(path) as folder:
        (folder / "content").write_text(text)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_as_a_whole(tmp_path, monkeypatch, can_exchange):
    if not can_exchange:
        monkeypatch.setattr(run_folder, "_exchange_names", lambda first, second: False)
    for text in ("old", "new"):
        write_folder(tmp_path / "a.b", text)
    assert (tmp_path / "a.b" / "content").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.b"]


@pytest.mark.skipif(sys.platform != "linux", reason="exchanges names by renameat2")
def test_two_folders_exchange_their_names_in_one_step(tmp_path):
    for name in ("a", "b"):
        write_folder(tmp_path / name, name)
    assert run_folder._exchange_names(tmp_path / "a", tmp_path / "b")
    assert [(tmp_path / name / "content").read_text() for name in ("a", "b")] == ["b", "a"]
    with pytest.raises(FileNotFoundError):
        run_folder._exchange_names(tmp_path / "a", tmp_path / "missing")


def test_a_folder_does_not_replace_a_file_or_a_link(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("file", "link"):
        with pytest.raises(RunError, match="expected a folder, found a file or link"):
            write_folder(tmp_path / name, "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_a_run_that_may_only_be_read_is_opened_with_what_was_left_in_it(tmp_path, monkeypatch):
    (tmp_path / "plan.json").touch()
    left = tmp_path / f".a-autoseg-{'0' * 32}.txt"
    left.touch()
    os.utime(left, (0, 0))

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert open_run(tmp_path) == RunFolder(tmp_path)
    assert left.exists()


def test_a_file_system_that_may_only_be_read_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(RunError, match=r"cannot write .*a\.txt: Read-only file system; .*choose another place"):
        write_text(tmp_path / "a.txt", "x")


@pytest.mark.parametrize(("threshold", "message"), [(0, "unexpected pos 64$"), (2**80, "pos 64, as on a full disk$")])
def test_an_error_of_a_library_is_put_down_to_a_full_disk_only_if_the_disk_is_full(
    tmp_path, monkeypatch, threshold, message
):
    monkeypatch.setattr(run_folder, "BYTES_OF_A_FULL_DISK", threshold)
    with pytest.raises(OSError, match=message), run_folder.translate_library_errors(tmp_path / "a.pth"):
        raise RuntimeError("unexpected pos 64")  # noqa: EM101
