import stat
import zipfile
from pathlib import Path

import pytest

from autoseg.errors import ExchangeError
from autoseg.exchange.archives import unpack_archive

NAMES = frozenset({"plans.json", "dataset.json"})


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


def write_zip(path: Path, entries: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in entries.items():
            archive.writestr(name, text)
    return path


def test_only_the_wanted_files_are_unpacked_in_their_folders(target: Path, tmp_path: Path) -> None:
    entries = {"D/m/plans.json": "1", "D/m/dataset.json": "2", "D/m/fold_0/debug.json": "3"}
    unpack_archive(write_zip(tmp_path / "x.zip", entries), target, names=NAMES)
    files = {path.relative_to(target).as_posix(): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert files == {"D/m/plans.json": "1", "D/m/dataset.json": "2"}


@pytest.mark.parametrize(
    "name",
    [
        "../plans.json",
        "a/../../plans.json",
        "/plans.json",
        "C:/plans.json",
        r"..\plans.json",
        r"\\host\share\plans.json",
    ],
)
def test_a_path_that_leads_out_is_refused_and_nothing_is_unpacked(name: str, target: Path, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"dataset.json": "good", name: "bad"})
    with pytest.raises(ExchangeError, match=r"is refused.*Nothing was unpacked"):
        unpack_archive(archive, target, names=NAMES)
    assert list(target.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["target", "x.zip"]


def test_a_link_is_refused(target: Path, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("plans.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ExchangeError, match="or is a link"):
        unpack_archive(tmp_path / "x.zip", target, names=NAMES)


def test_an_archive_that_needs_more_than_the_disk_holds_is_refused(target: Path, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"plans.json": "x" * 100})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 99})())
        with pytest.raises(ExchangeError, match=r"unpacks to 0\.0 GiB, but .* has 0\.0 GiB free"):
            unpack_archive(archive, target, names=NAMES)


def test_a_document_that_claims_gigabytes_is_refused(target: Path, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"plans.json": "x" * 100})
    content = bytearray(archive.read_bytes())
    entry = content.rfind(b"PK\x01\x02")  # of the central directory; the uncompressed size is 24 bytes on
    content[entry + 24 : entry + 28] = (2**32 - 2).to_bytes(4, "little")
    archive.write_bytes(content)
    with pytest.raises(ExchangeError, match=r"'plans\.json' unpacks to 4096 MiB, more than the 64 MiB"):
        unpack_archive(archive, target, names=NAMES)


def test_what_is_no_zip_file_is_refused(target: Path, tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("text")
    with pytest.raises(ExchangeError, match=r"x\.zip cannot be unpacked"):
        unpack_archive(tmp_path / "x.zip", target, names=NAMES)


def test_a_damaged_file_in_a_zip_file_is_refused(target: Path, tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "x.zip", {"plans.json": "text " * 1000})
    content = bytearray(archive.read_bytes())
    content[40:60] = b"\xff" * 20  # of the compressed text, which begins after 30 bytes and the name
    archive.write_bytes(content)
    with pytest.raises(ExchangeError, match=r"x\.zip cannot be unpacked .*download it again"):
        unpack_archive(archive, target, names=NAMES)
