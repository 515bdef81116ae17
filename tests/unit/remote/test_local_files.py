import os
import time
from pathlib import Path

import numpy as np
import pytest
from builders.dicom_series import write_series
from builders.listings import count_listings
from builders.remote_files import FaultyFileSystem, Node

from autoseg.errors import OptionError, RemoteError, UnreachableError
from autoseg.geometry import Grid
from autoseg.processes.case_pool import run_over_cases
from autoseg.processes.progress import SilentProgress
from autoseg.remote.cache_folder import SIZE_VARIABLE
from autoseg.remote.local_files import FolderNames, fetch_ahead, list_image_files, use_local
from autoseg.remote.mirror import is_placeholder
from autoseg.remote.trimming import trim_cache
from autoseg.volume_io import read_grid, read_image, read_label_map, write_label_map
from autoseg.volume_io.dicom import find_series

Place = type[FaultyFileSystem]
SHAPE = (3, 4, 5)
GRID = Grid(
    shape_voxels=SHAPE,
    spacing_mm=(1.0, 1.0, 1.0),
    origin_mm=(0.0, 0.0, 0.0),
    direction=((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),
)


def is_there(path: Path) -> bool:
    return not is_placeholder(path.stat())


def publish_label_maps(place: Place, folder: Path, *names: str) -> None:
    """Label maps of random values, of which each takes some blocks of the disk."""
    for seed, name in enumerate(names):
        values = np.random.default_rng(seed).integers(0, 200, SHAPE, dtype=np.int32)
        write_label_map(folder / name, values, grid=GRID, like=None)
    for path in sorted(folder.iterdir()):
        place().pipe_file(f"/bucket/run/{path.name}", path.read_bytes())


def publish_blocks(place: Place, *names: str) -> None:
    for name in names:
        place().pipe_file(f"/bucket/run/{name}", os.urandom(100_000))


def use(path: Path, *, seconds_ago: int) -> None:
    """Fetches a file and lets its use lie some time back."""
    with use_local(path):
        pass
    os.utime(path, ns=(time.time_ns() - seconds_ago * 10**9, path.stat().st_mtime_ns))


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha", "a.mhd", "a.nhdr", "a.hdr", "a.HDR", "a.png", "a.tif"])
def test_an_image_is_fetched_when_it_is_read(node: Node, place: Place, tmp_path: Path, name: str) -> None:
    shape = (1, 4, 5) if name.endswith((".png", ".tif")) else SHAPE
    values = np.random.default_rng(0).integers(0, 200, shape, dtype=np.uint8)
    grid = Grid(shape_voxels=shape, spacing_mm=GRID.spacing_mm, origin_mm=GRID.origin_mm, direction=GRID.direction)
    write_label_map(tmp_path / "local" / name, values, grid=grid, like=None)
    for path in (tmp_path / "local").iterdir():
        place().pipe_file(f"/bucket/run/{path.name}", path.read_bytes())
        place().pipe_file(f"/bucket/run/other_{path.name}", path.read_bytes())
    node.begin()
    path = node.root / name
    assert not is_there(path)
    assert read_grid(path) == read_grid(tmp_path / "local" / name)
    assert (read_label_map(path).array == read_label_map(tmp_path / "local" / name).array).all()
    assert (read_image([path]).array == read_image([tmp_path / "local" / name]).array).all()
    assert not is_there(node.root / f"other_{name}")
    assert place.calls["get"] == len([file for file in node.root.iterdir() if is_there(file)])


def test_voxels_under_another_name_than_their_header_are_fetched(node: Node, place: Place, tmp_path: Path) -> None:
    header = (
        "ObjectType = Image\nNDims = 3\nDimSize = 5 4 3\nElementType = MET_UCHAR\nElementSpacing = 1 1 1\n"
        "ElementDataFile = %s\n"
    )
    voxels = np.arange(60, dtype=np.uint8)
    place().pipe_file("/bucket/run/one.mhd", (header % "voxels of one.raw").encode())
    place().pipe_file("/bucket/run/voxels of one.raw", voxels.tobytes())
    place().pipe_file("/bucket/run/many.mhd", (header % "slice%02d.raw 1 3 1").encode())
    for index in range(3):
        place().pipe_file(f"/bucket/run/slice{index + 1:02d}.raw", voxels[index * 20 : index * 20 + 20].tobytes())
    node.begin()
    assert not is_there(node.root / "slice02.raw")
    for name in ("one.mhd", "many.mhd"):
        assert (read_image([node.root / name]).array.ravel() == voxels).all()


def test_a_folder_of_dicom_slices_is_fetched_when_it_is_read(node: Node, place: Place, tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).normal(size=(3, 8, 8)) * 300
    for name in ("a_0000.dcm", "b_0000.dcm"):
        for path in write_series(tmp_path / name, voxels).rglob("*"):
            place().pipe_file(f"/bucket/run/{name}/{path.name}", path.read_bytes())
    node.begin()
    found = read_image([node.root / "a_0000.dcm"])
    assert (found.array == read_image([tmp_path / "a_0000.dcm"]).array).all()
    assert not any(is_there(path) for path in (node.root / "b_0000.dcm").iterdir())
    assert find_series(node.root / "b_0000.dcm").series[0].slices
    assert place.calls["get"] == 6


def test_the_header_that_a_label_map_is_written_like_is_fetched(node: Node, place: Place, tmp_path: Path) -> None:
    publish_label_maps(place, tmp_path / "made", "a.nii.gz")
    node.begin()
    write_label_map(tmp_path / "b.nii.gz", np.zeros(SHAPE, np.uint8), grid=GRID, like=node.root / "a.nii.gz")
    assert is_there(node.root / "a.nii.gz")


def test_reading_again_fetches_nothing(node: Node, place: Place, tmp_path: Path) -> None:
    publish_label_maps(place, tmp_path / "made", "a.nii.gz")
    node.begin()
    for _ in range(2):
        read_label_map(node.root / "a.nii.gz")
        node.begin()
    assert place.calls["get"] == 1


def test_an_unreachable_place_is_no_broken_image(node: Node, place: Place, tmp_path: Path) -> None:
    publish_label_maps(place, tmp_path / "made", "a.nii.gz")
    node.begin()
    place.faults += ["cut"] * 3
    with pytest.raises(UnreachableError, match=r"cannot read faulty://bucket/run/a.nii.gz, tried 3 times"):
        read_label_map(node.root / "a.nii.gz")
    assert not is_there(node.root / "a.nii.gz")
    place().rm_file("/bucket/run/a.nii.gz")
    with pytest.raises(RemoteError, match="has gone since it was listed"):
        read_label_map(node.root / "a.nii.gz")


@pytest.mark.parametrize("error", [RemoteError, UnreachableError])
def test_a_place_that_cannot_be_reached_ends_a_loop_over_cases(error: type[RemoteError]) -> None:
    tried = []

    def work(case: str) -> None:
        tried.append(case)
        msg = "s3://bucket"
        raise error(msg)

    jobs = [("a", "a"), ("b", "b")]
    if error is RemoteError:
        assert len(run_over_cases(work, jobs, workers=1, label="", progress=SilentProgress()).failures) == 2
        return
    with pytest.raises(UnreachableError):
        run_over_cases(work, jobs, workers=1, label="", progress=SilentProgress())
    assert tried == ["a"]


def test_files_are_fetched_ahead_of_their_use_and_in_order(node: Node, place: Place) -> None:
    names = [f"{index:02d}.nii.gz" for index in range(40)]
    publish_blocks(place, *names)
    node.begin()
    seen = []
    for path in fetch_ahead([node.root / name for name in names], lambda path: [path]):
        assert is_there(path)
        seen.append(path.name)
        if len(seen) == 1:
            assert not is_there(node.root / names[-1])
    assert seen == names
    assert place.calls["get"] == 40


def test_what_was_used_last_is_kept_when_the_cache_is_full(
    node: Node, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_blocks(place, "a.nii.gz", "b.nii.gz", "c.nii.gz")
    node.begin()
    for ago, name in enumerate(("b.nii.gz", "c.nii.gz", "a.nii.gz")):
        use(node.root / name, seconds_ago=100 - ago)
    monkeypatch.setenv(SIZE_VARIABLE, "0.00025")
    trim_cache()
    assert [is_there(node.root / name) for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz")] == [True, False, True]
    assert node.begin().push() == 0


def test_the_cache_is_trimmed_while_images_are_read(node: Node, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{index:02d}.nii.gz" for index in range(30)]
    publish_blocks(place, *names)
    node.begin()
    monkeypatch.setenv(SIZE_VARIABLE, "0.0005")
    for name in names:
        with use_local(node.root / name):
            assert is_there(node.root / name)
    assert 1 <= sum(is_there(node.root / name) for name in names) <= 5


def test_an_image_in_use_is_kept(node: Node, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    publish_blocks(place, "a.nii.gz", "b.nii.gz")
    node.begin()
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    with use_local(node.root / "a.nii.gz"):
        with use_local(node.root / "b.nii.gz"):
            pass
        trim_cache()
        assert is_there(node.root / "a.nii.gz")
        assert not is_there(node.root / "b.nii.gz")
    trim_cache()
    assert not is_there(node.root / "a.nii.gz")


def test_unpublished_files_are_kept_and_published_ones_can_be_fetched_again(
    node: Node, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = node.begin()
    weights = node.write("models/checkpoint_final.safetensors", b"weights" * 10_000)
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    trim_cache()
    assert is_there(weights)
    session.push()
    trim_cache()
    assert not is_there(weights)
    monkeypatch.setenv(SIZE_VARIABLE, "1")
    with use_local(weights):
        assert weights.read_bytes() == b"weights" * 10_000
    assert node.begin().push() == 0
    assert place.calls["put"] == 1


def test_preprocessed_data_of_runs_in_use_is_kept(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.begin()
    array = node.write("preprocessed/2d/a.b2nd", b"1" * 100_000)
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    with node.mirror.keep():
        trim_cache()
        assert array.is_file()
    trim_cache()
    assert not array.parent.exists()


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, text)
    with pytest.raises(OptionError, match=f"{SIZE_VARIABLE} must be a number of gigabytes"):
        trim_cache()


def test_the_files_of_an_image_that_may_only_be_read_are_listed_and_left_as_they_are(tmp_path):
    header, voxels = tmp_path / "one.mhd", tmp_path / "voxels of one.raw"
    header.write_text("ElementDataFile = voxels of one.raw")
    voxels.write_bytes(bytes(8))
    (tmp_path / "two.raw").write_bytes(bytes(8))
    os.utime(header, ns=(10**18, 10**18))
    header.chmod(0o444)
    assert list_image_files(header) == [header, voxels]
    assert list_image_files(voxels) == [voxels]
    assert header.stat().st_mtime_ns == 10**18
    assert list_image_files(tmp_path) == sorted(tmp_path.iterdir())


def write_headers(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / f"{name}.mhd").write_text(f"NDims = 3\nElementDataFile = {name}.raw\n")
        (folder / f"{name}.raw").write_bytes(bytes(8))
    return [folder / f"{name}.mhd" for name in names]


def test_a_folder_is_listed_once_for_the_files_of_all_its_images(tmp_path, monkeypatch):
    images, names = write_headers(tmp_path, "a", "b", "c"), FolderNames()
    listings = count_listings(monkeypatch)
    found = [list_image_files(path, names=names) for path in images]
    assert found == [[path, path.with_suffix(".raw")] for path in images]
    assert listings == {tmp_path: 1}
    later = write_headers(tmp_path, "d")
    assert list_image_files(later[0], names=names) == [later[0], later[0].with_suffix(".raw")]


def test_a_folder_by_url_is_listed_once_for_the_reading_of_all_its_images(
    node: Node, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"case{index}.mhd" for index in range(4)]
    publish_label_maps(place, tmp_path / "made", *names)
    node.begin()
    listings = count_listings(monkeypatch)
    for name in names:
        read_label_map(node.root / name)
    assert listings[node.root] == 1
    publish_label_maps(place, tmp_path / "later", "case1.hdr")
    node.begin()
    for name in ("case0.mhd", "case1.hdr"):
        read_label_map(node.root / name)
    assert listings[node.root] == 2


def test_voxels_of_another_image_with_a_similar_name_are_no_part_of_an_image(tmp_path):
    one, eleven = write_headers(tmp_path, "1", "11")
    assert list_image_files(eleven) == [eleven, tmp_path / "11.raw"]
    assert list_image_files(one) == [one, tmp_path / "1.raw"]


def test_the_files_of_an_image_have_the_same_order_in_every_copy_of_a_folder(tmp_path):
    header = tmp_path / "a.mhd"
    header.write_text("NDims = 3\nElementDataFile = LIST\nz.raw\nb.raw\nm.raw\n")
    for name in ("m.raw", "z.raw", "b.raw"):
        (tmp_path / name).write_bytes(bytes(8))
    assert [path.name for path in list_image_files(header)] == ["a.mhd", "b.raw", "m.raw", "z.raw"]
