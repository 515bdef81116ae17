"""MetaImage with fields removed, mistyped and extreme, and with voxels elsewhere."""

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from builders.hostile_images.good_files import ANYTHING, RIGHT, VOXELS, HostileFile

META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "0 0 0",
    "ElementSpacing": "1 1 2",
    "DimSize": "6 5 4",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
"""A good header of MetaImage."""


def save_meta(folder: Path, *, tail: bytes | None = None, ending: str = ".mha", **fields: str | None) -> Path:
    """Saves a MetaImage with other fields; None removes one."""
    lines = [f"{key} = {value}" for key, value in {**META, **fields}.items() if value is not None]
    order = sorted(lines, key=lambda line: line.startswith("ElementDataFile"))
    content = VOXELS.tobytes() if tail is None else tail
    (folder / f"a{ending}").write_bytes("\n".join(order).encode() + b"\n" + content)
    return folder / f"a{ending}"


def list_meta() -> Iterator[HostileFile]:
    """Lists all."""
    compressed = zlib.compress(VOXELS.tobytes())
    rows: list[tuple[dict[str, str | None], bytes | None, str]] = [
        ({}, None, RIGHT),
        ({"NDims": "99"}, None, "NDims must be 2 to 4, found 99"),
        ({"NDims": "-1"}, None, "NDims must be"),
        ({"NDims": "3.5"}, None, "NDims"),
        ({"NDims": "9" * 400}, None, "NDims"),
        ({"NDims": None}, None, "lacks NDims"),
        ({"DimSize": None}, None, "lacks DimSize"),
        ({"DimSize": "6 5"}, None, "3 numbers for DimSize"),
        ({"DimSize": "6 5 4 " + "1 " * 5000}, None, "characters|numbers"),
        ({"DimSize": "6 5 0"}, None, "expected extents"),
        ({"DimSize": "6 5 -4"}, None, "expected extents"),
        ({"DimSize": "10000 10000 10000"}, None, "promises 10000 x 10000 x 10000"),
        ({"DimSize": "6 5 3"}, None, "60 bytes follow"),
        ({"DimSize": "6 4 4"}, None, "48 bytes follow"),
        ({"DimSize": "six five four"}, None, "DimSize"),
        ({"ElementType": "MET_CHAR"}, None, "120 bytes follow"),
        ({"ElementType": "MET_DOUBLE"}, None, "promises"),
        ({"ElementType": "MET_OTHER"}, None, "ElementType must be one of"),
        ({"ElementType": "MET_SHORT" * 100}, None, "ElementType"),
        ({"ElementType": None}, None, "lacks ElementType"),
        ({"ElementNumberOfChannels": "999999999"}, None, "ElementNumberOfChannels"),
        ({"ElementNumberOfChannels": "0"}, None, "ElementNumberOfChannels"),
        ({"ElementSpacing": "0 1 1"}, None, "spacing must be positive"),
        ({"ElementSpacing": "1 1 nan"}, None, "spacing must be positive"),
        ({"ElementSpacing": "1 1"}, None, "3 numbers for ElementSpacing"),
        ({"ElementSpacing": "1e-320 1 1"}, None, ANYTHING),
        ({"TransformMatrix": "1 0 0"}, None, "9 numbers for TransformMatrix"),
        ({"TransformMatrix": "0 0 0 0 0 0 0 0 0"}, None, "onto a plane"),
        ({"Offset": "nan 0 0"}, None, "finite"),
        ({"CompressedData": "True"}, None, "not compressed|they are not"),
        ({"CompressedData": "True"}, compressed, RIGHT),
        ({"CompressedData": "True"}, compressed[:-4], "cut off"),
        ({"CompressedData": "True"}, compressed[:-20], "cut off"),
        ({"CompressedData": "True", "DimSize": "6 5 3"}, compressed, "60 bytes follow"),
        ({"CompressedData": "True"}, gzip.compress(VOXELS.tobytes()), RIGHT),
        ({"CompressedData": "perhaps"}, None, "True or False"),
        ({"HeaderSize": "-7"}, None, "HeaderSize"),
        ({"Comment": "x" * 5000}, None, "Comment has 5000 characters"),
        ({"x" * 3000: "1"}, None, "too long"),
        ({"ElementDataFile": "LIST"}, None, "names"),
        ({"ElementDataFile": "%s%s%s%n"}, None, "no pattern"),
        ({"ElementDataFile": "a%99999999d.raw 1 9 1"}, None, "no pattern"),
        ({"ElementDataFile": ""}, None, "names ''"),
        ({"ElementDataFile": None}, None, "no MetaImage header"),
    ]
    for number, (fields, tail, outcome) in enumerate(rows):
        name = f".mha {number}: " + ", ".join(f"{key[:30]} = {str(value)[:20]}" for key, value in fields.items())

        def build(folder: Path, fields: dict = fields, tail: bytes | None = tail) -> Path:
            return save_meta(folder, tail=tail, **fields)

        yield HostileFile(name=name, build=build, outcome=outcome)
    for place in (
        "../secret.raw",
        "/dev/zero",
        "..\\secret.raw",
        "C:\\secret.raw",
        "pipe.raw",
        "inner",
        "b/../../x.raw",
    ):

        def build_elsewhere(folder: Path, place: str = place) -> Path:
            make_places(folder)
            return save_meta(folder / "data", tail=b"", ending=".mhd", ElementDataFile=place)

        yield HostileFile(name=f".mhd naming {place}", build=build_elsewhere, outcome="names .* for its voxels")


def make_places(folder: Path) -> None:
    """Makes what a header may name: a secret outside of its folder, a pipe and a folder beside it."""
    (folder / "data" / "inner").mkdir(parents=True)
    (folder / "secret.raw").write_bytes(VOXELS.tobytes())
    os.mkfifo(folder / "data" / "pipe.raw")
