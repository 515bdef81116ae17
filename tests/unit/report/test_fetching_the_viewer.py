"""The wheel is built with the viewer, or says why it is not; a fake npm packs what it is given."""

import importlib.util
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = b"the viewer"
InstallNpm = Callable[[bytes], None]


@pytest.fixture
def hook() -> ModuleType:
    specification = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.SHA256 = module.compute_digest(SCRIPT)
    return module


@pytest.fixture
def install_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hook: ModuleType) -> InstallNpm:
    def install(content: bytes) -> None:
        archive = tmp_path / "packed.tgz"
        with tarfile.open(archive, "w:gz") as members:
            member = tarfile.TarInfo(hook.MEMBER)
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
        npm = tmp_path / "npm"
        npm.write_text(f'#!/bin/sh\n/bin/cp {archive} viewer.tgz\necho "$@" > {tmp_path / "arguments"}\n')
        npm.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return install


def test_the_viewer_is_fetched_once(tmp_path: Path, hook: ModuleType, install_npm: InstallNpm) -> None:
    install_npm(SCRIPT)
    target = tmp_path / "viewer" / "niivue.umd.js"
    assert hook.fetch_viewer(target) is None
    assert target.read_bytes() == SCRIPT
    given = (tmp_path / "arguments").read_text().split()
    assert given == ["pack", "--silent", "--fetch-retries=0", "--fetch-timeout=10000", hook.PACKAGE]
    (tmp_path / "npm").unlink()
    assert hook.fetch_viewer(target) is None


def test_another_file_than_the_tested_one_is_refused(tmp_path: Path, hook: ModuleType, install_npm: InstallNpm) -> None:
    install_npm(b"something else")
    assert "another SHA-256" in hook.fetch_viewer(tmp_path / "niivue.umd.js")
    assert not (tmp_path / "niivue.umd.js").exists()


@pytest.mark.parametrize("packed", [b"no archive", b""])
def test_a_damaged_archive_is_told(tmp_path: Path, hook: ModuleType, install_npm: InstallNpm, packed: bytes) -> None:
    install_npm(SCRIPT)
    (tmp_path / "packed.tgz").write_bytes(packed)
    assert "another SHA-256" in hook.fetch_viewer(tmp_path / "niivue.umd.js")


@pytest.mark.usefixtures("install_npm")
def test_without_npm_the_reason_is_told(tmp_path: Path, hook: ModuleType) -> None:
    assert hook.fetch_viewer(tmp_path / "niivue.umd.js") == "npm is not installed"


def test_an_npm_that_fails_is_told(tmp_path: Path, hook: ModuleType, install_npm: InstallNpm) -> None:
    install_npm(SCRIPT)
    (tmp_path / "npm").write_text("#!/bin/sh\nexit 1\n")
    assert "npm cannot fetch @niivue/niivue" in hook.fetch_viewer(tmp_path / "niivue.umd.js")
