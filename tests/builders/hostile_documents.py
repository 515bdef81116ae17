"""Documents that a stranger may send: broken, extreme or malicious, in one table for each kind of document."""

import copy
import json
import os
import stat
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import torch

Builder = Callable[[Path], None]
DEPTH: Final = 100_000
DIGITS: Final = 10_000
SPARSE_BYTES: Final = 5 * 2**30


def write_sparse(path: Path) -> None:
    """A file of gigabytes that takes no space."""
    with path.open("wb") as handle:
        handle.truncate(SPARSE_BYTES)


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


JSON_TEXTS: Final[Mapping[str, bytes]] = {
    "brackets": b"[" * DEPTH,
    "closed_brackets": b"[" * DEPTH + b"]" * DEPTH,
    "braces": b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
    "levels": b"[" * 65 + b"]" * 65,
    "integer": b'{"schema_version": ' + b"1" * DIGITS + b"}",
    "negative_integer": b'{"schema_version": -' + b"9" * 25 + b"}",
    "decimals": b'{"schema_version": 0.' + b"1" * DIGITS + b"}",
    "exponent": b'{"schema_version": 1e400}',
    "nan": b'{"schema_version": NaN}',
    "infinity": b'{"schema_version": -Infinity}',
    "key_twice": b'{"schema_version": 1, "schema_version": 2}',
    "latin": '{"name": "Läsion"}'.encode("latin-1"),
    "utf16": '{"name": "x"}'.encode("utf-16"),
    "half_character": b'{"name": "\\ud800"}',
    "null_bytes": bytes(64),
    "binary": bytes(range(256)),
    "empty": b"",
    "blank": b" " * 1000,
    "truncated": b'{"schema_version": 1, "name": "x',
    "python": b"{'schema_version': 1}",
    "comment": b"{} // note",
    "two": b"{}{}",
    "list": b"[]",
    "number": b"1",
    "text": b'"text"',
    "null": b"null",
    "true": b"true",
    "nothing": b"{}",
}
"""Contents of which no document of autoseg may be."""
JSON_FILES: Final[Mapping[str, Builder]] = {
    "gigabytes": write_sparse,
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": link_to_itself,
    "device": lambda path: path.symlink_to("/dev/zero"),
}
"""What is no file, or too large a one, in place of a document."""

OTHER_VALUES: Final = (None, True, -1, 10**18, 1e308, "../../x", "a\0b", [], {"x": {}}, [[[]]])
"""Values of which most are wrong for any field."""


def list_changes(content: Any) -> Iterator[tuple[str, Any]]:
    """Every field left out once, and once with each of `OTHER_VALUES`; of a list, the first entry only."""
    for place in _list_places(content):
        where = ".".join(map(str, place))
        yield f"{where} removed", _change(content, place, None, removes=True)
        for value in OTHER_VALUES:
            yield f"{where} = {value!r}", _change(content, place, value)


def _list_places(content: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    entries = content.items() if isinstance(content, dict) else enumerate(content[:1])
    for key, value in entries:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from _list_places(value, (*above, key))


def _change(content: Any, place: tuple[Any, ...], value: Any, *, removes: bool = False) -> Any:
    changed = copy.deepcopy(content)
    part = changed
    for key in place[:-1]:
        part = part[key]
    if removes:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    return changed


def set_field(content: Any, path: str, value: Any) -> Any:
    """A copy with another value of the field, whose keys are joined by dots."""
    return _change(content, tuple(int(key) if key.isdigit() else key for key in path.split(".")), value)


MILLION: Final = 10**6
PLAN_FIELDS: Final[Mapping[str, Any]] = {
    "network.features_per_stage": [MILLION, MILLION],
    "network.features_per_stage.0": 10**18,
    "network.blocks_per_stage": [MILLION, 1],
    "network.convolutions_per_decoder_stage": [MILLION],
    "network.kernel_sizes": [[99_999] * 3] * 2,
    "network.kernel_sizes.0": [3] * MILLION,
    "network.strides": [[1, 1, 1], [3, 3, 3]],
    "network.strides.1": [0, 2, 2],
    "network.input_channels": MILLION,
    "network.output_channels": -1,
    "patch_voxels": [100_000] * 3,
    "patch_voxels.0": 7,
    "spacing_mm": [0.0, 1.0, 1.0],
    "spacing_mm.1": -1.0,
    "median_shape_voxels": ["NaN", 1.0, 1.0],
    "training.batch_size": 10**9,
    "training.epochs": 10**12,
    "training.iterations_per_epoch": 10**15,
    "training.warmup_iterations": 10**15,
    "training.initial_learning_rate": "Infinity",
    "training.momentum": 1.5,
    "training.losses": [],
    "training.gradient_norm_limit": 0,
    "training.foreground_fraction": 2,
    "training.transforms": [{"name": "mirror", "axes": [0, 1, 2, 0]}],
    "training.transforms.0": {
        "name": "blur",
        "probability": 1,
        "channel_probability": 1,
        "sigma_range_voxels": [0, 1e9],
    },
    "data_of": "../../x",
    "resampling.image_order": 99,
}
"""Fields of a configuration, each of which alone makes a plan unusable; refused by name."""
STAGES: Final = 3_000
PLANS_OF_MANY_STAGES: Final[Mapping[str, Any]] = {
    "network.features_per_stage": [4] * STAGES,
    "network.kernel_sizes": [[3, 3, 3]] * STAGES,
    "network.strides": [[1, 1, 1]] * STAGES,
    "network.blocks_per_stage": [1] * STAGES,
    "network.convolutions_per_decoder_stage": [1] * (STAGES - 1),
}
OVERSIZED_PLANS: Final[Mapping[str, Mapping[str, Any]]] = {
    "features": {"features_per_stage": (16_384, 16_384)},
    "patch": {"patch": (32_768, 32_768, 32_768)},
    "batch": {"patch": (512, 512, 512), "batch_size": 32_768},
    "blocks": {"features_per_stage": (2_048, 8_192), "blocks_per_stage": (256, 256)},
    "kernels": {"features_per_stage": (4_096, 4_096), "kernel_sizes": ((63,) * 3,) * 2},
}
"""Plans within the limits of every field that need more memory than any computer has."""

BAD_NAMES: Final[Mapping[str, str]] = {
    "climbs": "../../x",
    "absolute": "/tmp/x",
    "separator": "sub-00/ses-1",
    "backslash": "sub-00\\ses-1",
    "parent": "..",
    "here": ".",
    "hidden": ".x",
    "empty": "",
    "blank": " ",
    "newline": "a\nb",
    "null": "a\0b",
    "escape": "a\x1b[31mb",
    "line_separator": "a\u2028b",
    "long": "x" * 300,
    "long_in_bytes": "ä" * 120,
    "drive": "C:x",
    "share": "\\\\host\\share",
    "device": "CON",
    "device_with_ending": "nul.x",
    "device_in_small_letters": "com1",
}
"""Names that cannot be those of files on every system."""
GOOD_NAMES: Final = (
    *(
        "case_001",
        "a b",
        "ä",
        "患者1",
        "a.b",
        "-x",
        "x..y",
        "a'b",
        'a"b',
        "a#b%20",
        "2021-01-01T12:30",
        "console",
        "x" * 190,
    ),
)


def write_zip(
    path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that stand twice
        for name, content in members:
            archive.writestr(name, content)


def _make_link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def _encrypt(path: Path) -> None:
    """Marks the only member as encrypted, in its own header and in the directory."""
    write_zip(path, ("plans.json", b"{}"))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


def _claim_size(path: Path, size: int) -> None:
    write_zip(path, ("plans.json", b"{}"))
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\x01\x02") + 24
    content[place : place + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)


def _cut(path: Path) -> None:
    write_zip(path, ("plans.json", b"x" * 1000))
    path.write_bytes(path.read_bytes()[:-20])


def _flip(path: Path) -> None:
    write_zip(path, ("plans.json", b"x" * 1000), compression=zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


ZIP_FILES: Final[Mapping[str, Builder]] = {
    "outside": lambda path: write_zip(path, ("../plans.json", b"{}")),
    "deep_outside": lambda path: write_zip(path, ("a/../../plans.json", b"{}")),
    "absolute": lambda path: write_zip(path, ("/plans.json", b"{}")),
    "drive": lambda path: write_zip(path, ("C:/plans.json", b"{}")),
    "backslashes": lambda path: write_zip(path, ("..\\plans.json", b"{}")),
    "share": lambda path: write_zip(path, ("\\\\host\\x\\plans.json", b"{}")),
    "link": lambda path: write_zip(path, (_make_link("plans.json"), b"/etc/passwd")),
    "linked_folder": lambda path: write_zip(path, (_make_link("a"), b"/tmp"), ("a/plans.json", b"{}")),
    "device": lambda path: write_zip(path, ("CON/plans.json", b"{}")),
    "hidden": lambda path: write_zip(path, (".x/plans.json", b"{}")),
    "newline": lambda path: write_zip(path, ("a\nb/plans.json", b"{}")),
    "dot_at_end": lambda path: write_zip(path, ("a./plans.json", b"{}")),
    "long": lambda path: write_zip(path, (f"{'x' * 300}/plans.json", b"{}")),
    "twice": lambda path: write_zip(path, ("a/plans.json", b"1"), ("a/plans.json", b"2")),
    "capitals": lambda path: write_zip(path, ("a/plans.json", b"1"), ("A/plans.json", b"2")),
    "encrypted": _encrypt,
    "bomb": lambda path: write_zip(path, ("plans.json", bytes(2**26 + 1))),
    "bomb_of_weights": lambda path: write_zip(path, ("fold_0/checkpoint_final.pth", bytes(2**26 + 1))),
    "claims_gigabytes": lambda path: _claim_size(path, 2**32 - 2),
    "claims_nothing": lambda path: _claim_size(path, 1),
    "cut": _cut,
    "flipped": _flip,
    "empty": lambda path: path.write_bytes(b"") and None,
    "text": lambda path: path.write_text("text") and None,
}
"""Archives of which nothing may be unpacked."""


class Payload:
    """Its pickle makes a folder as soon as it is read by a full reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.marker),)


def _wind(count: int) -> list[Any]:
    """Lists that hold the list before twice: two to the power of `count` entries if they are written out."""
    wound: list[Any] = [0]
    for _ in range(count):
        wound = [wound, wound]
    return wound


def _contain_itself() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


WEIGHTS: Final[Mapping[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "integers": lambda tensor: tensor.to(torch.int32),
    "bools": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.to(torch.complex64),
    "nan": lambda tensor: torch.full_like(tensor, torch.nan),
    "infinite": lambda tensor: torch.full_like(tensor, torch.inf),
    "one_stride": lambda tensor: torch.zeros(1).expand(tensor.shape),
    "terabytes": lambda tensor: torch.zeros(1).as_strided((10**6, 10**6), (0, 0)),
    "other_shape": lambda tensor: torch.zeros((*tensor.shape, 2)),
    "no_elements": lambda tensor: torch.zeros(0),
    "sparse": lambda tensor: tensor.to_sparse(),
    "meta": lambda tensor: tensor.to("meta"),
}
"""What stands in a checkpoint in place of a tensor."""
ENTRIES: Final[Mapping[str, Callable[[], Any]]] = {
    "network_weights": lambda: [],
    "network_weights.0": lambda: {0: torch.zeros(1)},
    "network_weights.1": lambda: {"a": "text"},
    "network_weights.2": dict,
    "trainer_name": lambda: 7,
    "trainer_name.0": lambda: "../../x",
    "init_args": lambda: None,
    "init_args.0": lambda: {"configuration": "../../x"},
    "init_args.1": lambda: {"configuration": 7},
    "current_epoch": lambda: 10**5000,
    "current_epoch.0": lambda: -1,
    "current_epoch.1": lambda: "many",
    "inference_allowed_mirroring_axes": lambda: (0, 1, 99),
    "inference_allowed_mirroring_axes.0": lambda: (-1,),
    "inference_allowed_mirroring_axes.1": lambda: "012",
    "inference_allowed_mirroring_axes.2": lambda: _wind(60),
    "inference_allowed_mirroring_axes.3": _contain_itself,
    "inference_allowed_mirroring_axes.4": lambda: (0, 0),
}
"""Entries of nnU-Net's checkpoint that are of no use; a number makes the key unique."""


def write_compressed_checkpoint(path: Path) -> None:
    """A checkpoint whose zeros are compressed, which torch.save never does."""
    plain = path.with_name("plain")
    torch.save({"a": torch.zeros(2**22)}, plain)
    with zipfile.ZipFile(plain) as source:
        write_zip(path, *((name, source.read(name)) for name in source.namelist()))
    plain.unlink()


def write_json(path: Path, content: Any) -> None:
    """Writes text, or any value as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
