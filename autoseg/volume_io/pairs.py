"""Formats of two files: a header that names a file of voxels."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from autoseg.run_folder import make_folder, write_atomically

HEADER_ENDINGS: Final = (".hdr", ".mhd", ".nhdr")


@contextmanager
def write_pair_atomically(path: Path) -> Iterator[Path]:
    """Yields a path of the same name in a temporary folder; what the block writes there is moved beside `path`.

    The header names the other file, so both must be written under their final names; the header is moved last.
    """
    make_folder(path.parent)
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for written in sorted(Path(folder).iterdir(), key=lambda file: file.name.lower().endswith(HEADER_ENDINGS)):
            with write_atomically(path.parent / written.name) as temporary:
                written.replace(temporary)
