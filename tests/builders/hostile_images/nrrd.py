"""NRRD with fields removed, mistyped and extreme, and with voxels elsewhere."""

import gzip
from collections.abc import Iterator
from pathlib import Path

from builders.hostile_images.good_files import RIGHT, VOXELS, HostileFile
from builders.hostile_images.meta_image import make_places

NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "6 5 4",
    "space directions": "(1,0,0) (0,1,0) (0,0,2)",
    "space origin": "(0,0,0)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
}
"""A good header of NRRD."""


def save_nrrd(folder: Path, *, tail: bytes | None = None, ending: str = ".nrrd", **fields: str | None) -> Path:
    """Saves a NRRD with other fields (blanks for underscores); None removes one."""
    changed = {key.replace("_", " "): value for key, value in fields.items()}
    lines = [f"{key}: {value}" for key, value in {**NRRD, **changed}.items() if value is not None]
    content = VOXELS.tobytes() if tail is None else tail
    (folder / f"a{ending}").write_bytes("\n".join(["NRRD0004", *lines]).encode() + b"\n\n" + content)
    return folder / f"a{ending}"


def list_nrrd() -> Iterator[HostileFile]:
    """Lists all."""
    packed = gzip.compress(VOXELS.tobytes())
    rows: list[tuple[dict[str, str | None], bytes | None, str]] = [
        ({}, None, RIGHT),
        ({"dimension": "16"}, None, "dimension must be"),
        ({"dimension": "0"}, None, "dimension must be"),
        ({"dimension": None}, None, "lacks dimension"),
        ({"sizes": "6 5 4 " + "1 " * 30}, None, "3 numbers for sizes"),
        ({"sizes": "6 5"}, None, "3 numbers for sizes"),
        ({"sizes": "6 5 -4"}, None, "expected extents"),
        ({"sizes": "6 5 99999999999999999999"}, None, "expected extents"),
        ({"sizes": "10000 10000 10000"}, None, "promises 10000 x 10000 x 10000"),
        ({"sizes": "6 5 3"}, None, "60 bytes follow"),
        ({"sizes": "5 5 4"}, None, "40 bytes follow"),
        ({"type": "double"}, None, "promises"),
        ({"type": "uchar"}, None, "120 bytes follow"),
        ({"type": "block"}, None, "type must be one of"),
        ({"type": None}, None, "lacks type"),
        ({"encoding": "gzip"}, None, "they are not"),
        ({"encoding": "gzip"}, packed, RIGHT),
        ({"encoding": "gzip"}, packed[:-9], "cut off"),
        ({"encoding": "gzip", "sizes": "6 5 3"}, packed, "60 bytes follow"),
        ({"encoding": "other"}, None, "encoding must be one of"),
        ({"encoding": "ascii"}, " ".join(str(value) for value in VOXELS.ravel()).encode(), RIGHT),
        ({"encoding": "ascii"}, b"1 2 3", "promises"),
        ({"encoding": "bz2"}, None, "encoding must be one of"),
        ({"encoding": "hex"}, VOXELS.tobytes().hex().encode(), RIGHT),
        ({"endian": None}, None, "endian"),
        ({"endian": "middle"}, None, "endian"),
        ({"space_directions": "(1,0,0) (0,1,0)"}, None, "3 vectors"),
        ({"space_directions": "(1,0,0) (0,1) (0,0,2)"}, None, "same length"),
        ({"space_directions": f"({'1,' * 50}1) (0,1,0) (0,0,1)"}, None, "same length"),
        ({"space_directions": "(nan,0,0) (0,1,0) (0,0,2)"}, None, "cannot be read|finite|spacing"),
        ({"space_directions": "(0,0,0) (0,1,0) (0,0,2)"}, None, "cannot be read|finite|spacing"),
        ({"space_origin": "(x,0,0)"}, None, "space origin"),
        ({"byte_skip": "-9"}, None, "byte skip"),
        ({"byte_skip": "1000"}, None, "promises"),
        ({"line_skip": "99999999999999999999999"}, None, "line skip"),
        (
            {"spacings": "1 1 nan", "space_directions": None, "space_origin": None, "space": None},
            None,
            "spacing must be",
        ),
    ]
    for number, (fields, tail, outcome) in enumerate(rows):
        name = f".nrrd {number}: " + ", ".join(f"{key} = {str(value)[:20]}" for key, value in fields.items())

        def build(folder: Path, fields: dict = fields, tail: bytes | None = tail) -> Path:
            return save_nrrd(folder, tail=tail, **fields)

        yield HostileFile(name=name, build=build, outcome=outcome)
    for place in ("../secret.raw", "/dev/zero", "pipe.raw", "inner", "%s%n 1 2 1"):

        def build_elsewhere(folder: Path, place: str = place) -> Path:
            make_places(folder)
            return save_nrrd(folder / "data", tail=b"", ending=".nhdr", data_file=place)

        yield HostileFile(name=f".nhdr naming {place}", build=build_elsewhere, outcome="names .* for its voxels")
