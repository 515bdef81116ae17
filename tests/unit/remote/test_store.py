import errno
from pathlib import Path
from typing import Any

import pytest
from builders.remote_files import Fault, FaultyFileSystem

from autoseg.errors import RemoteError, UnreachableError
from autoseg.remote.address import OBJECT_STORES
from autoseg.remote.retrying import PAUSES_SECONDS, retry
from autoseg.remote.store import RemoteVersion, Store

Place = type[FaultyFileSystem]
FAULTS: list[Fault] = ["cut", "short", "unavailable"]


@pytest.fixture
def store(place: Place) -> Store:
    place().pipe_file("/bucket/run/weights", b"the old weights")
    return Store("faulty://bucket/run")


@pytest.mark.parametrize("fault", FAULTS)
def test_an_interrupted_download_is_repeated(store: Store, place: Place, tmp_path: Path, fault: Fault) -> None:
    place.faults += [fault, fault]
    store.download("weights", tmp_path / "weights")
    assert (tmp_path / "weights").read_bytes() == b"the old weights"
    assert place.calls["get"] == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_download_that_never_succeeds_leaves_the_old_file(
    store: Store, place: Place, tmp_path: Path, fault: Fault
) -> None:
    target = tmp_path / "weights"
    target.write_bytes(b"before")
    place.faults += [fault] * 3
    with pytest.raises(UnreachableError, match=r"cannot read faulty://bucket/run/weights, tried 3 times.*repeat"):
        store.download("weights", target)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("fault", FAULTS)
def test_an_interrupted_upload_is_repeated_and_shows_the_old_file_until_it_is_whole(
    store: Store, place: Place, tmp_path: Path, fault: Fault
) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"the new and longer weights")
    place.faults += [fault] * 3
    with pytest.raises(UnreachableError, match="cannot write faulty://bucket/run/weights, tried 3 times"):
        store.upload(source, "weights")
    assert place().cat_file("/bucket/run/weights") == b"the old weights"
    assert list(store.list_files()) == ["weights"]
    place.faults += [fault]
    assert store.upload(source, "weights").size_bytes == 26
    assert place().cat_file("/bucket/run/weights") == b"the new and longer weights"


def test_what_another_try_does_not_change_is_not_tried_again(store: Store, place: Place, tmp_path: Path) -> None:
    place.faults += ["forbidden"]
    with pytest.raises(RemoteError, match=r"cannot read .*weights \(PermissionError: 403 Forbidden\); correct") as told:
        store.download("weights", tmp_path / "weights")
    assert not isinstance(told.value, UnreachableError)
    assert place.calls["get"] == 1


def test_a_protocol_with_one_connection_connects_again_after_a_failure(
    store: Store, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoseg.remote.store.CONNECTED_PROTOCOLS", {"faulty"})
    store, begin = Store("faulty://bucket/run"), place.calls["open"]
    store.download("weights", tmp_path / "a")
    store.download("weights", tmp_path / "b")
    assert place.calls["open"] == begin + 1
    place.faults += ["cut"]
    store.download("weights", tmp_path / "c")
    assert place.calls["open"] == begin + 2


def test_a_full_disk_is_not_blamed_on_the_place() -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RemoteError, match=r"No space left on device\); free space for the cache, or let it hold less"):
        retry(fail, what="read x", sleep=lambda _: pytest.fail("tried again"))


def test_signatures_in_the_errors_of_a_library_are_not_shown(store: Store, place: Place, tmp_path: Path) -> None:
    place.faults += ["unavailable"] * 3
    with pytest.raises(UnreachableError, match="503 Slow Down") as told:
        store.download("weights", tmp_path / "weights")
    assert "secret" not in str(told.value)


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(store: Store, place: Place) -> None:
    place.faults += ["unavailable"]
    assert list(store.list_files()) == ["weights"]
    place.faults += ["unavailable"] * 3
    with pytest.raises(UnreachableError, match="cannot list"):
        store.list_files()


def test_folders_below_are_listed_and_unfinished_files_are_not(store: Store, place: Place) -> None:
    place().pipe_file("/bucket/run/models/a/b", b"12")
    place().pipe_file("/bucket/run/models/.autoseg-unfinished-0-c", b"1")
    found = store.list_files()
    assert {name: version.size_bytes for name, version in found.items()} == {"models/a/b": 2, "weights": 15}
    assert all(version.modified_ns > 0 for version in found.values())


def test_an_empty_object_that_stands_for_a_folder_is_no_file(
    store: Store, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    list_folder = place.ls

    def list_with_marks(files: FaultyFileSystem, path: str, **options: Any) -> Any:
        marks = [{"name": f"{path}{name}/", "size": 0, "type": "file"} for name in ("", "/imagesTr")]  # as of s3fs
        return [*marks, *list_folder(files, path, **options)]

    monkeypatch.setattr(place, "ls", list_with_marks)
    assert list(store.list_files()) == ["weights"]


def test_a_missing_folder_has_no_files_and_is_no_file(store: Store) -> None:
    assert Store("faulty://bucket/none").list_files() == {}
    assert not Store("faulty://bucket/none").is_file()
    assert not store.is_file()
    assert Store("faulty://bucket/run/weights").is_file()


def test_a_file_that_was_replaced_since_it_was_listed_is_refused(store: Store, place: Place, tmp_path: Path) -> None:
    expected = store.list_files()["weights"]
    place().pipe_file("/bucket/run/weights", b"others")
    with pytest.raises(RemoteError, match="has been replaced since it was listed"):
        store.download("weights", tmp_path / "weights", expected=expected)


def test_removing_a_file_that_has_gone_is_no_error(store: Store, place: Place) -> None:
    store.remove("weights")
    store.remove("weights")
    assert store.find_version("weights") is None


def test_versions_are_compared_by_their_tags_where_both_have_one() -> None:
    version = RemoteVersion(size_bytes=3, modified_ns=1, tag="a")
    assert version.is_same(version.model_copy(update={"modified_ns": 2}))
    assert not version.is_same(version.model_copy(update={"tag": "b"}))
    assert not version.is_same(version.model_copy(update={"modified_ns": 2, "tag": ""}))


def test_pauses_grow_and_end() -> None:
    waited: list[float] = []

    def fail() -> None:
        raise TimeoutError

    with pytest.raises(UnreachableError, match=f"tried {len(PAUSES_SECONDS) + 1} times"):
        retry(fail, what="read x", sleep=waited.append)
    assert tuple(waited) == PAUSES_SECONDS == (1, 2, 4)


def test_a_defect_is_no_failed_transfer() -> None:
    def fail() -> None:
        raise TypeError

    with pytest.raises(TypeError):
        retry(fail, what="read x", sleep=lambda _: pytest.fail("tried again"))


def test_object_stores_show_objects_only_when_they_are_complete() -> None:
    assert {"s3", "gs", "az", "abfs"} <= OBJECT_STORES
    assert not {"ssh", "sftp", "file"} & OBJECT_STORES
