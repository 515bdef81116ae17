import json
from pathlib import Path

import numpy as np
import pytest
from builders.damage import flip_bit, show_late
from builders.labels import build_plain_labels
from builders.plans import build_preprocessing_plan
from builders.preprocessing import preprocess_training_case

from autoseg.errors import RunError
from autoseg.geometry import Grid
from autoseg.labels import LabelScheme
from autoseg.preprocessing.cache import is_case_written, list_cases, open_case, write_case
from autoseg.preprocessing.case import PreprocessedCase
from autoseg.preprocessing.class_locations import find_class_locations

SHAPE = (20, 24, 30)
FILES = ["brain.json", "brain.image.b2nd", "brain.labels.b2nd", "brain.locations.npy"]


@pytest.fixture
def case() -> PreprocessedCase:
    generator = np.random.default_rng(0)
    image = generator.normal(100, 20, (2, *SHAPE)).astype(np.float32)
    label_map = generator.integers(0, 3, SHAPE).astype(np.int16)
    plan = build_preprocessing_plan(spacings_mm={"3d_fullres": (1.0, 1.0, 1.0)}, schemes=("zscore", "none"))
    grid = Grid(shape_voxels=SHAPE, spacing_mm=(1.0, 1.0, 1.0))
    return preprocess_training_case(image, label_map, grid, plan, configuration="3d_fullres")


@pytest.fixture
def labels() -> LabelScheme:
    return build_plain_labels(3, with_ignore=True)


def write(folder: Path, name: str, case: PreprocessedCase, labels: LabelScheme) -> None:
    assert case.label_map is not None
    write_case(folder, name, case, locations=find_class_locations(case.label_map, labels), patch_voxels=(16, 16, 16))


def test_a_case_is_read_as_it_was_written(tmp_path: Path, case: PreprocessedCase, labels: LabelScheme) -> None:
    assert case.label_map is not None
    write(tmp_path, "brain", case, labels)

    cached = open_case(tmp_path, "brain")

    assert cached.name == "brain"
    assert cached.geometry == case.geometry
    assert (cached.image.shape, cached.label_map.shape) == ((2, *SHAPE), SHAPE)
    np.testing.assert_array_equal(cached.image[:], case.image)
    np.testing.assert_array_equal(cached.label_map[:], case.label_map)
    expected = find_class_locations(case.label_map, labels)
    np.testing.assert_array_equal(cached.locations.coordinates, expected.coordinates)
    assert cached.locations.class_ranges == expected.class_ranges
    assert cached.locations.annotated_range == expected.annotated_range


def test_slices_are_numpy_arrays_of_the_type_written(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme
) -> None:
    write(tmp_path, "brain", case, labels)
    cached = open_case(tmp_path, "brain")

    patch, labels_patch = cached.image[:, 3:9, 0:24, 7:8], cached.label_map[3:9, 0:24, 7:8]

    assert isinstance(patch, np.ndarray)
    assert (patch.dtype, labels_patch.dtype) == (np.float32, np.int16)
    np.testing.assert_array_equal(patch, case.image[:, 3:9, 0:24, 7:8])
    assert case.label_map is not None
    np.testing.assert_array_equal(labels_patch, case.label_map[3:9, 0:24, 7:8])


def test_locations_are_mapped_not_loaded(tmp_path: Path, case: PreprocessedCase, labels: LabelScheme) -> None:
    write(tmp_path, "brain", case, labels)

    assert isinstance(open_case(tmp_path, "brain").locations.coordinates, np.memmap)


def test_a_case_without_foreground_can_be_written(tmp_path: Path, case: PreprocessedCase) -> None:
    empty = PreprocessedCase(image=case.image, label_map=np.zeros(SHAPE, dtype=np.int16), geometry=case.geometry)

    write(tmp_path, "empty", empty, build_plain_labels(2))

    assert open_case(tmp_path, "empty").locations.coordinates.shape == (0, 3)


def test_a_case_of_a_2d_configuration_is_stored_slice_by_slice(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme
) -> None:
    assert case.label_map is not None
    locations = find_class_locations(case.label_map, labels)

    write_case(tmp_path, "brain", case, locations=locations, patch_voxels=(16, 16))

    image = open_case(tmp_path, "brain").image
    assert image.array.blocks[:2] == (1, 1)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(image[:], case.image)


@pytest.mark.parametrize("missing", FILES)
def test_a_case_counts_as_written_only_when_all_its_files_are_there(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme, missing: str
) -> None:
    write(tmp_path, "brain", case, labels)
    assert is_case_written(tmp_path, "brain")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)

    (tmp_path / missing).unlink()

    assert not is_case_written(tmp_path, "brain")
    assert list_cases(tmp_path) == ()
    with pytest.raises(RunError, match=rf"'brain'(.|\n)*{missing}(.|\n)*autoseg preprocess"):
        open_case(tmp_path, "brain")


@pytest.mark.parametrize("emptied", FILES)
def test_a_case_with_a_file_that_a_loss_of_power_emptied_counts_as_missing(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme, emptied: str
) -> None:
    write(tmp_path, "brain", case, labels)

    (tmp_path / emptied).write_bytes(b"")

    assert not is_case_written(tmp_path, "brain")


@pytest.mark.parametrize("damaged", FILES)
@pytest.mark.parametrize("kept_bytes", [0, 40])
def test_a_shortened_file_is_an_error_that_says_what_to_do(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme, *, damaged: str, kept_bytes: int
) -> None:
    write(tmp_path, "brain", case, labels)
    path = tmp_path / damaged
    path.write_bytes(path.read_bytes()[:kept_bytes])

    with pytest.raises(RunError, match="autoseg preprocess"):
        open_case(tmp_path, "brain")


def test_a_file_with_foreign_content_is_an_error(tmp_path: Path, case: PreprocessedCase, labels: LabelScheme) -> None:
    write(tmp_path, "brain", case, labels)
    path = tmp_path / "brain.image.b2nd"
    path.write_bytes(b"x" * path.stat().st_size)

    with pytest.raises(RunError, match="damaged"):
        open_case(tmp_path, "brain")


@pytest.mark.parametrize("name", ["brain.image.b2nd", "brain.labels.b2nd", "brain.locations.npy"])
def test_damage_inside_a_file_is_an_error_that_names_it_and_says_what_to_do(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme, name: str
) -> None:
    write(tmp_path, "brain", case, labels)
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 4 : len(content) // 2] = b"\xff" * (len(content) // 2 - len(content) // 4)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match=rf"damaged \({name} .*; delete .*autoseg preprocess RUN"):
        open_case(tmp_path, "brain")
    (tmp_path / name).unlink()
    assert not is_case_written(tmp_path, "brain")


def test_an_interrupted_rewrite_does_not_leave_a_case_that_counts_as_written(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme
) -> None:
    assert case.label_map is not None
    write(tmp_path, "brain", case, labels)
    (tmp_path / "brain.labels.b2nd").unlink()
    (tmp_path / "brain.labels.b2nd").mkdir()  # writing the second of the four files fails

    with pytest.raises(RunError, match=r"cannot write .*brain\.labels\.b2nd"):
        write(tmp_path, "brain", case, labels)

    assert not (tmp_path / "brain.json").exists()
    assert not is_case_written(tmp_path, "brain")


def test_writing_again_replaces_the_case(tmp_path: Path, case: PreprocessedCase, labels: LabelScheme) -> None:
    write(tmp_path, "brain", case, labels)
    changed = PreprocessedCase(image=case.image + 1, label_map=case.label_map, geometry=case.geometry)

    write(tmp_path, "brain", changed, labels)

    np.testing.assert_array_equal(open_case(tmp_path, "brain").image[:], case.image + 1)


def write_twins(root: Path, case: PreprocessedCase, labels: LabelScheme) -> tuple[Path, Path]:
    assert case.label_map is not None
    locations = find_class_locations(case.label_map, labels)
    flat, deep = root / "2d", root / "3d_fullres"
    write_case(flat, "brain", case, locations=locations, patch_voxels=(16, 16))
    write_case(deep, "brain", case, locations=locations, patch_voxels=(16, 16, 16), twin=flat)
    return flat, deep


def test_small_twins_share_their_files_but_not_their_record(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme
) -> None:
    flat, deep = write_twins(tmp_path, case, labels)

    for name in FILES:
        assert (flat / name).samefile(deep / name) == (name != "brain.json")
    np.testing.assert_array_equal(open_case(deep, "brain").image[:], case.image)


def test_rewriting_one_twin_leaves_the_other_alone(tmp_path: Path, case: PreprocessedCase, labels: LabelScheme) -> None:
    flat, deep = write_twins(tmp_path, case, labels)
    changed = PreprocessedCase(image=case.image + 1, label_map=case.label_map, geometry=case.geometry)

    write(flat, "brain", changed, labels)

    np.testing.assert_array_equal(open_case(flat, "brain").image[:], changed.image)
    np.testing.assert_array_equal(open_case(deep, "brain").image[:], case.image)


def test_large_twins_are_cut_for_their_own_patches(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoseg.preprocessing.cache.LARGEST_LINKED_BYTES", case.image.nbytes - 1)

    flat, deep = write_twins(tmp_path, case, labels)

    assert not (flat / "brain.image.b2nd").samefile(deep / "brain.image.b2nd")
    assert open_case(deep, "brain").image.array.blocks == (1, 16, 16, 16)  # type: ignore[attr-defined]


def test_twins_are_written_out_where_the_file_system_has_no_links(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)

    flat, deep = write_twins(tmp_path, case, labels)

    assert not (flat / "brain.image.b2nd").samefile(deep / "brain.image.b2nd")
    np.testing.assert_array_equal(open_case(deep, "brain").image[:], case.image)


def test_cases_are_listed_by_name(tmp_path: Path, case: PreprocessedCase, labels: LabelScheme) -> None:
    for name in ("b.2", "a_1"):
        write(tmp_path, name, case, labels)
    (tmp_path / ".half-written.json").write_text("{}")

    assert list_cases(tmp_path) == ("a_1", "b.2")
    assert list_cases(tmp_path / "nowhere") == ()


def test_writing_compresses(tmp_path: Path, case: PreprocessedCase, labels: LabelScheme) -> None:
    smooth = PreprocessedCase(image=np.zeros_like(case.image), label_map=case.label_map, geometry=case.geometry)

    write(tmp_path, "smooth", smooth, labels)

    assert (tmp_path / "smooth.image.b2nd").stat().st_size < smooth.image.nbytes / 50


def read_all(folder: Path) -> None:
    cached = open_case(folder, "brain")
    for array in (cached.image, cached.label_map, cached.locations.coordinates):
        array[:]


@pytest.mark.parametrize("damaged", FILES[1:])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_one_changed_bit_is_an_error_that_names_the_file_and_says_what_to_do(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme, *, damaged: str, place: float
) -> None:
    write(tmp_path, "brain", case, labels)
    read_all(tmp_path)
    flip_bit(tmp_path / damaged, place)
    with pytest.raises(RunError, match=rf"{damaged}.* delete .*with: autoseg preprocess RUN"):
        read_all(tmp_path)


def test_cases_of_earlier_versions_are_read_without_checksums(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme
) -> None:
    write(tmp_path, "brain", case, labels)
    record = json.loads((tmp_path / "brain.json").read_text())
    record["files"] = {name: size for name, size in record["files"].items() if name.endswith("_bytes")}
    (tmp_path / "brain.json").write_text(json.dumps(record))
    read_all(tmp_path)


@pytest.mark.parametrize("is_new", [True, False])
def test_a_case_that_another_computer_has_just_written_is_read_although_a_network_drive_shows_it_late(
    tmp_path: Path, case: PreprocessedCase, labels: LabelScheme, monkeypatch: pytest.MonkeyPatch, *, is_new: bool
) -> None:
    write(tmp_path, "brain", case, labels)
    old = (tmp_path / "brain.json").stat()  # of another size than the array has now
    show_late(monkeypatch, {tmp_path / "brain.image.b2nd": None if is_new else old})
    np.testing.assert_array_equal(open_case(tmp_path, "brain").image[:], case.image)
