"""Headers of GIPL, MRC, VTK, MGH and pictures with impossible contents."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import tifffile

from builders.hostile_images.good_files import ANYTHING, RIGHT, VOXELS, HostileFile, change_file, save_good


def _put(ending: str, offset: int, packed: bytes) -> Callable[[Path], Path]:
    """Overwrites bytes of a good file."""
    return change_file(ending, lambda content: content[:offset] + packed + content[offset + len(packed) :])


def list_other_headers() -> Iterator[HostileFile]:
    """Lists all."""
    big, little = ">4H", "<4i"
    rows = [
        ("GIPL of 65535 cubed", _put(".gipl", 0, struct.pack(big, 65535, 65535, 65535, 1)), "promises|cannot be read"),
        ("GIPL without extent", _put(".gipl", 0, bytes(8)), r"\.gipl"),
        ("GIPL of unknown type", _put(".gipl", 8, b"\xff\xff"), r"\.gipl"),
        ("MRC of 2^31 cubed", _put(".mrc", 0, struct.pack(little, *[2**31 - 1] * 3, 6)), r"\.mrc"),
        ("MRC of negative extent", _put(".mrc", 0, struct.pack(little, -6, -5, -4, 6)), r"\.mrc"),
        ("MRC of unknown type", _put(".mrc", 12, struct.pack("<i", 77)), r"\.mrc"),
        ("MRC with a header of gigabytes", _put(".mrc", 92, struct.pack("<i", 2**31 - 1)), r"\.mrc"),
        ("MGH of 2^31 cubed", _put(".mgh", 4, struct.pack(">4i", *[2**31 - 1] * 3, 1)), "promises|extents"),
        ("MGH of negative extent", _put(".mgh", 4, struct.pack(">4i", -6, 5, 4, 1)), "extents"),
        ("MGH of unknown type", _put(".mgh", 20, struct.pack(">i", 55)), r"\.mgh"),
        ("VTK of 10000 cubed", _edit_vtk(b"DIMENSIONS 6 5 4", b"DIMENSIONS 10000 10000 10000"), r"\.vtk"),
        ("VTK without extent", _edit_vtk(b"DIMENSIONS 6 5 4", b"DIMENSIONS 0 5 4"), r"\.vtk"),
        ("VTK of negative extent", _edit_vtk(b"DIMENSIONS 6 5 4", b"DIMENSIONS -6 5 4"), r"\.vtk"),
        ("VTK with a long line", _edit_vtk(b"DIMENSIONS 6 5 4", b"DIMENSIONS 6 5 4" + b" " * 99999), ANYTHING),
        ("VTK of unknown type", _edit_vtk(b"unsigned_short", b"quaternion" * 50), r"\.vtk"),
        ("VTK with 999 components", _edit_vtk(b"unsigned_short", b"unsigned_short 999"), r"\.vtk"),
        ("TIFF with spacing of words", _save_tiff('{"spacing": ["x", 1, 1]}'), "must hold"),
        (
            "TIFF with spacing of zero",
            _save_tiff('{"spacing": [0, 1, 1]}'),
            "spacing must be three finite millimetres above 0",
        ),
        ("TIFF with deep spacing", _save_tiff("[" * 100_000), "must hold|cannot be read"),
        ("TIFF with other pages elsewhere", _save_ome, RIGHT),
    ]
    for name, build, outcome in rows:
        yield HostileFile(name=name, build=build, outcome=outcome)


def _edit_vtk(old: bytes, new: bytes) -> Callable[[Path], Path]:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new)

    return change_file(".vtk", change)


def _save_tiff(sidecar: str) -> Callable[[Path], Path]:
    def build(folder: Path) -> Path:
        path = save_good(folder, ".tif")
        path.with_suffix(".json").write_text(sidecar)
        return path

    return build


def _save_ome(folder: Path) -> Path:
    """Saves a stack whose description asks for pages of a file in another folder."""
    (folder / "data").mkdir()
    tifffile.imwrite(folder / "secret.tif", VOXELS + 1, photometric="minisblack")
    pages = "".join(
        f'<TiffData IFD="0" FirstZ="{first}" PlaneCount="4"><UUID FileName="{name}">urn:uuid:{first}</UUID></TiffData>'
        for first, name in ((0, "a.tif"), (4, "../secret.tif"))
    )
    text = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:0">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="int16" SizeX="6" SizeY="5" SizeZ="8" '
        f'SizeC="1" SizeT="1">{pages}</Pixels></Image></OME>'
    )
    tifffile.imwrite(folder / "data" / "a.tif", VOXELS, photometric="minisblack", description=text, metadata=None)
    return folder / "data" / "a.tif"
