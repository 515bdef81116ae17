"""Enhanced multi-frame files are written here byte by byte (explicit VR, little endian): no library at hand does."""

import gzip
import re
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import VolumeError
from autoseg.volume_io import check_same_grid, read_grid, read_image, read_label_map, write_label_map

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
LONG_FORMS = (b"OB", b"OW", b"SQ")
ANGLE = 0.3
ALONG_X = np.array([np.cos(ANGLE), np.sin(ANGLE), 0.0])
ALONG_Y = np.array([0.0, 0.0, -1.0])
NORMAL = np.cross(ALONG_X, ALONG_Y)
START = np.array([-11.5, 20.25, 33.0])
VOXELS = np.arange(4 * 3 * 5).reshape(4, 3, 5).astype(np.uint16)


def element(group: int, number: int, form: bytes, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        value = struct.pack("<H", value)
    if isinstance(value, str):
        value = value.encode()
    value += (b"\0" if form in (b"UI", b"OB") else b" ") * (len(value) % 2)
    length = struct.pack("<2xI" if form in LONG_FORMS else "<H", len(value))
    return struct.pack("<HH", group, number) + form + length + value


def sequence(group: int, number: int, *items: bytes) -> bytes:
    content = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    return element(group, number, b"SQ", content)


def decimals(values) -> str:
    return "\\".join(f"{value:.10g}" for value in values)


def frame(position: np.ndarray, along_x: np.ndarray = ALONG_X) -> bytes:
    place = sequence(0x20, 0x9113, element(0x20, 0x32, b"DS", decimals(position)))
    return place + sequence(0x20, 0x9116, element(0x20, 0x37, b"DS", decimals([*along_x, *ALONG_Y])))


def save(path: Path, positions: list[np.ndarray], frames: list[bytes] | None = None, modality: str = "MR") -> Path:
    meta = (
        element(2, 2, b"UI", ENHANCED_MR)
        + element(2, 3, b"UI", "1.2.3")
        + element(2, 16, b"UI", EXPLICIT_LITTLE_ENDIAN)
    )
    measures = sequence(0x28, 0x9110, element(0x18, 0x50, b"DS", "9") + element(0x28, 0x30, b"DS", "0.8\\0.6"))
    body = [
        element(8, 0x16, b"UI", ENHANCED_MR),
        element(8, 0x18, b"UI", "1.2.3"),
        element(8, 0x60, b"CS", modality),
        element(0x28, 2, b"US", 1),
        element(0x28, 4, b"CS", "MONOCHROME2"),
        element(0x28, 8, b"IS", str(len(positions))),
        element(0x28, 0x10, b"US", 3),
        element(0x28, 0x11, b"US", 5),
        element(0x28, 0x100, b"US", 16),
        element(0x28, 0x101, b"US", 16),
        element(0x28, 0x102, b"US", 15),
        element(0x28, 0x103, b"US", 0),
        sequence(0x5200, 0x9229, measures),
        sequence(0x5200, 0x9230, *(frames or [frame(position) for position in positions])),
        element(0x7FE0, 0x10, b"OW", VOXELS[: len(positions)].tobytes()),
    ]
    head = bytes(128) + b"DICM" + element(2, 0, b"UL", struct.pack("<I", len(meta)))
    path.write_bytes(head + meta + b"".join(body))
    return path


@pytest.mark.parametrize("step_mm", [2.5, -2.5])
@pytest.mark.parametrize("ending", [".dcm", ".DICOM"])
def test_frames_lie_where_their_positions_say(tmp_path, step_mm, ending):
    path = save(tmp_path / f"a{ending}", [START + index * step_mm * NORMAL for index in range(4)])
    volume = read_image([path])
    np.testing.assert_array_equal(volume.array, VOXELS[None])
    assert volume.grid == read_grid(path)
    np.testing.assert_allclose(volume.grid.spacing_mm, (2.5, 0.8, 0.6), rtol=1e-6)
    expected = np.diag([-1.0, -1.0, 1.0]) @ np.column_stack([0.6 * ALONG_X, 0.8 * ALONG_Y, step_mm * NORMAL, START])
    np.testing.assert_allclose(volume.grid.affine[:3], expected, atol=1e-6)


def test_a_volume_lies_where_itk_sees_it_if_its_frames_follow_the_normal(tmp_path):
    path = save(tmp_path / "a.dcm", [START + index * 2.5 * NORMAL for index in range(4)])
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(tmp_path / "a.nii.gz"))
    check_same_grid(read_grid(tmp_path / "a.nii.gz"), read_grid(path), what="the same image in two formats")


def test_a_label_map_beside_a_volume_has_its_grid(tmp_path):
    grid = read_grid(save(tmp_path / "a.dcm", [START + index * 2.5 * NORMAL for index in range(4)]))
    write_label_map(tmp_path / "a.nii.gz", VOXELS.astype(np.uint8), grid=grid, like=tmp_path / "a.dcm")
    check_same_grid(grid, read_label_map(tmp_path / "a.nii.gz").grid, what="label map")
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii.gz").affine, grid.affine, atol=1e-5)


@pytest.mark.parametrize(
    ("offsets_mm", "expected"),
    [
        ((0, 2, 5, 6), "expected slices every 2 mm, found 2 other distances, such as 3 mm between frames 2, 3"),
        ((6, 2, 5, 0), "expected slices every 2 mm, found 2 other distances, such as 3 mm between frames 2, 3"),
        ((0, 2, 0, 2), "expected one image at every position, found 4 images at 2 positions (several times, echoes"),
        ((0, 0, 0, 0), "expected one image at every position, found 4 images at 1 positions (several times, echoes"),
    ],
)
def test_frames_that_form_no_volume_are_refused(tmp_path, offsets_mm, expected):
    path = save(tmp_path / "a.dcm", [START + offset * NORMAL for offset in offsets_mm])
    for read in (read_grid, lambda file: read_image([file])):
        with pytest.raises(VolumeError, match=rf"a\.dcm: {re.escape(expected)}"):
            read(path)


@pytest.mark.parametrize("order", [(0, 2, 1, 3), (3, 0, 2, 1)])
def test_frames_in_another_order_are_sorted_by_position(tmp_path, order):
    path = save(tmp_path / "a.dcm", [START + place * 2.5 * NORMAL for place in order])
    volume = read_image([path])
    np.testing.assert_array_equal(volume.array[0], VOXELS[np.argsort(order)])
    expected = read_grid(save(tmp_path / "b.dcm", [START + index * 2.5 * NORMAL for index in range(4)]))
    assert volume.grid == read_grid(path) == expected


def test_frames_tilted_against_each_other_are_refused(tmp_path):
    positions = [START + index * NORMAL for index in range(4)]
    frames = [frame(position) for position in positions[:2]]
    frames += [frame(position, np.array([1.0, 0.0, 0.0])) for position in positions[2:]]
    with pytest.raises(VolumeError, match=r"a\.dcm: its frames are tilted"):
        read_grid(save(tmp_path / "a.dcm", positions, frames))


def test_frames_without_positions_are_refused(tmp_path):
    tilt = sequence(0x20, 0x9116, element(0x20, 0x37, b"DS", decimals([*ALONG_X, *ALONG_Y])))
    path = save(tmp_path / "a.dcm", [START] * 4, [tilt] * 4)
    with pytest.raises(VolumeError, match="does not tell where its 4 frames lie; convert it with dcm2niix"):
        read_grid(path)


def test_a_volume_that_itk_wrote_comes_back(tmp_path):
    image = SimpleITK.GetImageFromArray(VOXELS)
    image.SetSpacing((0.6, 0.8, 2.5))
    image.SetOrigin(START.tolist())
    image.SetDirection(np.column_stack([ALONG_X, ALONG_Y, NORMAL]).ravel().tolist())
    for ending in ("dcm", "mha"):
        SimpleITK.WriteImage(image, str(tmp_path / f"a.{ending}"))
    volume = read_image([tmp_path / "a.dcm"])
    np.testing.assert_array_equal(volume.array[0], VOXELS)
    check_same_grid(read_grid(tmp_path / "a.mha"), volume.grid, what="the same image in two formats")


def test_a_slice_is_read_as_itk_reads_it(tmp_path):
    path = tmp_path / "a.dcm"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOXELS[:1]), str(path))
    volume = read_image([path])
    np.testing.assert_array_equal(volume.array, VOXELS[None, :1])
    assert volume.grid == read_grid(path)


def test_colours_are_channels(tmp_path):
    colours = np.arange(3 * 5 * 3).reshape(3, 5, 3).astype(np.uint8)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(colours, isVector=True), str(tmp_path / "a.dcm"))
    np.testing.assert_array_equal(read_image([tmp_path / "a.dcm"]).array[:, 0], np.moveaxis(colours, -1, 0))


@pytest.mark.parametrize("modality", ["SEG", "RTSTRUCT"])
def test_what_is_no_image_is_named(tmp_path, modality):
    path = save(tmp_path / "a.dcm", [START, START + NORMAL], modality=modality)
    with pytest.raises(VolumeError, match=rf"found an object of modality {modality}"):
        read_image([path])


@pytest.mark.parametrize("content", [b"junk" * 500, bytes(128) + b"DICM" + b"junk" * 50])
def test_a_broken_file_is_an_error_without_further_words(tmp_path, capfd, content):
    (tmp_path / "a.dcm").write_bytes(content)
    with pytest.raises(VolumeError, match=r"a\.dcm cannot be read"):
        read_image([tmp_path / "a.dcm"])
    assert capfd.readouterr().err == ""


def test_a_cut_file_is_an_error_without_further_words(tmp_path, capfd):
    path = save(tmp_path / "a.dcm", [START + index * 2.5 * NORMAL for index in range(4)])
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(VolumeError, match=r"a\.dcm"):
        read_image([path])
    assert capfd.readouterr().err == ""


def test_a_volume_of_a_scanner_lies_where_itk_sees_it(tmp_path):
    packed = Path(nib.__file__).parent / "nicom" / "tests" / "data" / "philips_mprage.dcm.gz"
    if not packed.is_file():
        pytest.skip("this nibabel is installed without its test data")
    (tmp_path / "a.dcm").write_bytes(gzip.decompress(packed.read_bytes()))
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(tmp_path / "a.dcm"))
    reader.ReadImageInformation()
    grid = read_grid(tmp_path / "a.dcm")
    signs = np.diag([-1.0, -1.0, 1.0])
    direction = signs @ np.array(reader.GetDirection()).reshape(3, 3) * reader.GetSpacing()
    np.testing.assert_allclose(grid.affine[:3, :3], direction, atol=1e-4)
    np.testing.assert_allclose(grid.origin_mm, signs @ reader.GetOrigin(), atol=1e-6)
