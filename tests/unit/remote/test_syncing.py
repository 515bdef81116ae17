import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders.remote_files import FaultyFileSystem, Node

from autoseg.errors import RemoteError, UnreachableError
from autoseg.remote.mirror import find_location, find_mirror, is_placeholder, name_urls, open_mirror
from autoseg.remote.syncing import refresh_mirror

Place = type[FaultyFileSystem]
WEIGHTS = "models/2d/fold_0/checkpoint_final.safetensors"


def publish(place: Place, name: str, content: bytes) -> None:
    place().pipe_file(f"/bucket/run/{name}", content)


def list_published(place: Place) -> list[str]:
    return sorted(path.removeprefix("/bucket/run/") for path in place().find("/bucket/run"))


def test_small_files_are_fetched_and_large_ones_only_stand_there(node: Node, place: Place) -> None:
    publish(place, "plan.json", b"{}")
    publish(place, "imagesTr/a_0000.nii.gz", b"voxels")
    publish(place, WEIGHTS, b"weights")
    node.begin()
    assert (node.root / "plan.json").read_bytes() == b"{}"
    for name, size in (("imagesTr/a_0000.nii.gz", 6), (WEIGHTS, 7)):
        found = (node.root / name).stat()
        assert is_placeholder(found)
        assert found.st_size == size
        assert found.st_mtime > 1e9, "the time at the URL"
    assert place.calls["get"] == 1


def test_only_what_has_changed_is_fetched_again(node: Node, place: Place) -> None:
    publish(place, "plan.json", b"{}")
    publish(place, "splits.json", b"[]")
    node.begin()
    publish(place, "plan.json", b"{1}")
    node.begin()
    assert (node.root / "plan.json").read_bytes() == b"{1}"
    assert place.calls["get"] == 3


def test_what_has_gone_goes_here_too(node: Node, place: Place) -> None:
    publish(place, "report.html", b"page")
    publish(place, "plan.json", b"{}")
    node.begin()
    place().rm_file("/bucket/run/report.html")
    node.begin()
    assert [path.name for path in node.root.iterdir()] == ["plan.json"]


def test_changes_are_published_once(node: Node, place: Place) -> None:
    publish(place, "plan.json", b"{}")
    session = node.begin()
    node.write("splits.json", b"[]")
    node.write(WEIGHTS, b"weights")
    assert session.push() == 2
    assert place().cat_file(f"/bucket/run/{WEIGHTS}") == b"weights"
    assert session.push() == 0
    assert node.begin().push() == 0
    assert place.calls["put"] == 2


def test_locks_temporary_files_and_preprocessed_data_stay_local(node: Node, place: Place) -> None:
    session = node.begin()
    jobs = f".jobs-autoseg-{'0' * 32}/work.pickle"
    aside = "models/2d/.fold_0.earlier/plan.json"
    for name in ("plan.json", ".prediction.jsonl", "preprocessed/2d/a.b2nd", "models/2d/.fold_0.lock", aside, jobs):
        node.write(name, b"1")
    node.write(f".plan-autoseg-{'0' * 32}.json", b"half")
    session.push()
    assert list_published(place) == [".prediction.jsonl", "plan.json"]


def test_preprocessed_data_that_someone_copied_to_the_url_is_not_fetched(node: Node, place: Place) -> None:
    publish(place, "plan.json", b"{}")
    publish(place, "preprocessed/2d/a.b2nd", b"1")
    assert node.begin().push() == 0
    assert not (node.root / "preprocessed").exists()


def test_a_document_is_published_after_the_files_that_it_tells_of(node: Node, place: Place) -> None:
    session = node.begin()
    node.write("validation/summary.json", b"{}")
    node.write("validation/a.nii.gz", b"1")
    place.faults += ["cut"] * 3
    with pytest.raises(UnreachableError):
        session.push()
    assert list_published(place) == []


def test_what_a_command_removes_is_removed_at_the_url(node: Node, place: Place) -> None:
    publish(place, "models/2d/fold_0/checkpoint_latest.safetensors", b"state")
    session = node.begin()
    (node.root / "models/2d/fold_0/checkpoint_latest.safetensors").unlink()
    node.write(WEIGHTS, b"weights")
    session.push()
    assert list_published(place) == [WEIGHTS]


def test_a_training_that_is_set_aside_stays_at_the_url_until_another_one_takes_its_place(
    node: Node, place: Place
) -> None:
    publish(place, WEIGHTS, b"weights")
    session = node.begin()
    folder = node.root / "models/2d/fold_0"
    aside = folder.rename(folder.with_name(".fold_0.earlier"))
    node.write("models/2d/fold_0/state.json", b"{}")
    session.push()
    assert WEIGHTS in list_published(place)
    assert is_placeholder((aside / "checkpoint_final.safetensors").stat())  # its content is nowhere else
    shutil.rmtree(aside)
    session.push()
    assert list_published(place) == ["models/2d/fold_0/state.json"]


def test_emptying_the_cache_by_hand_removes_nothing_at_the_url(node: Node, place: Place) -> None:
    publish(place, "plan.json", b"{}")
    node.begin()
    (node.root / "plan.json").unlink()
    session = node.begin()
    assert session.push() == 0
    assert list_published(place) == ["plan.json"]
    assert (node.root / "plan.json").is_file()
    (node.root / "plan.json").unlink()
    node.root.rmdir()
    assert session.push() == 0
    assert list_published(place) == ["plan.json"]


@pytest.mark.parametrize("unlisted", ["run", "fold_0"])
def test_a_folder_that_cannot_be_listed_is_not_one_that_was_removed(
    node: Node, place: Place, monkeypatch: pytest.MonkeyPatch, unlisted: str
) -> None:
    publish(place, "plan.json", b"{}")
    publish(place, WEIGHTS, b"weights")
    session, scandir = node.begin(), os.scandir

    def list_all_but_one(path: str) -> Any:
        if Path(path).name == unlisted:
            raise OSError(errno.EMFILE, "Too many open files", str(path))
        return scandir(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", list_all_but_one)
        with pytest.raises(RemoteError, match=rf"cannot list .*{unlisted} \(Too many open files\); nothing is removed"):
            session.push()
    assert list_published(place) == [WEIGHTS, "plan.json"]
    assert session.push() == 0


def test_what_could_not_be_published_is_published_by_the_next_command(node: Node, place: Place) -> None:
    session = node.begin()
    node.write(WEIGHTS, b"weights")
    place.faults += ["unavailable"] * 9
    with pytest.raises(UnreachableError, match="nothing is lost"):
        session.push()
    place.faults.clear()
    assert (node.root / WEIGHTS).read_bytes() == b"weights"
    session = node.begin()
    assert (node.root / WEIGHTS).read_bytes() == b"weights"
    assert session.push() == 1
    assert place().cat_file(f"/bucket/run/{WEIGHTS}") == b"weights"


def test_two_computers_share_a_run(node: Node, other_node: Node, place: Place) -> None:
    publish(place, "plan.json", b"{}")
    first, second = node.begin(), other_node.begin()
    node.write("models/2d/fold_0/training.json", b"0")
    other_node.write("models/2d/fold_1/training.json", b"1")
    node.write("crossvalidation.json", b"of the first")
    first.push()
    os.utime(other_node.write("crossvalidation.json", b"of the second"), (4e9, 4e9))
    second.push()
    node.begin()
    other_node.begin()
    for one in (node, other_node):
        assert (one.root / "models/2d/fold_0/training.json").read_bytes() == b"0"
        assert (one.root / "models/2d/fold_1/training.json").read_bytes() == b"1"
        assert (one.root / "crossvalidation.json").read_bytes() == b"of the second"


def test_a_fold_that_two_computers_trained_is_not_replaced(node: Node, other_node: Node, place: Place) -> None:
    publish(place, "plan.json", b"{}")
    first, second = node.begin(), other_node.begin()
    node.write(WEIGHTS, b"of the first")
    other_node.write(WEIGHTS, b"of the other")
    first.push()
    with pytest.raises(RemoteError, match=rf"{WEIGHTS} was written by another computer.*nothing was replaced"):
        second.push()
    with pytest.raises(RemoteError, match="Train each fold on one computer"):
        other_node.begin()
    assert place().cat_file(f"/bucket/run/{WEIGHTS}") == b"of the first"
    assert (other_node.root / WEIGHTS).read_bytes() == b"of the other"
    (other_node.root / WEIGHTS).unlink()
    assert other_node.begin().push() == 0


@pytest.mark.parametrize("name", ["plan.json", WEIGHTS])
def test_a_command_that_was_killed_before_it_noted_a_transfer_is_no_conflict(
    node: Node, place: Place, name: str
) -> None:
    session = node.begin()
    node.write(name, b"content")
    session.push()
    node.mirror.index_path.unlink()
    assert node.begin().push() == 0
    assert place.calls["put"] == 1


def test_a_single_file_is_fetched_without_its_neighbours(node: Node, place: Place) -> None:
    publish(place, "a.nii.gz", b"voxels")
    publish(place, "b.nii.gz", b"others")
    node.begin()
    mirror = open_mirror("faulty://bucket/run/a.nii.gz")
    from autoseg.remote.syncing import Synchronizer

    Synchronizer(mirror).pull()
    assert mirror.root.read_bytes() == b"voxels"
    assert list(mirror.root.parent.iterdir()) == [mirror.root]
    assert find_location(mirror.root) == "faulty://bucket/run/a.nii.gz"
    assert find_location(mirror.root.parent) == "faulty://bucket/run"


def test_messages_name_urls_and_not_the_cache(node: Node, tmp_path: Path) -> None:
    text = name_urls(f"no plan in {node.root}; see {node.root}/logs and {tmp_path}")
    assert text == f"no plan in faulty://bucket/run; see faulty://bucket/run/logs and {tmp_path}"
    assert find_location(node.root / "models") == "faulty://bucket/run/models"
    assert find_location(tmp_path) == str(tmp_path)
    assert find_mirror(tmp_path) is None


def test_a_refreshed_mirror_has_the_name_of_the_dataset(node: Node, place: Place) -> None:
    assert node.root.name == "run"
    publish(place, "dataset.json", b"{}")
    assert (refresh_mirror("faulty://bucket/run") / "dataset.json").is_file()
