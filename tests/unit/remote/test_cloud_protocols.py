"""Runs in Google's and Azure's stores: their libraries name objects and times in ways of their own."""

import tomllib
from pathlib import Path

import pytest
from builders.cloud_files import CLOUDS, CloudFiles, open_cloud
from builders.remote_files import Node

from autoseg.errors import RemoteError
from autoseg.remote.address import EXTRAS
from autoseg.remote.local_files import use_local
from autoseg.remote.mirror import is_placeholder
from autoseg.remote.store import Store

WEIGHTS = "models/2d/fold_0/checkpoint_final.safetensors"
SOURCES = Path(__file__).resolve().parents[3] / "pyproject.toml"


@pytest.mark.parametrize("protocol", CLOUDS)
def test_two_computers_share_a_run(protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_cloud(protocol, monkeypatch)
    first, second = (Node(tmp_path / name, f"{protocol}://bucket/run", monkeypatch) for name in ("first", "second"))
    session = first.begin()
    first.write("plan.json", b"{}")
    first.write(WEIGHTS, b"weights")
    assert session.push() == 2
    assert set(CloudFiles.objects) == {"bucket/run/plan.json", f"bucket/run/{WEIGHTS}"}

    session = second.begin()
    path = second.root / WEIGHTS
    assert (second.root / "plan.json").read_bytes() == b"{}"
    assert is_placeholder(path.stat())
    with use_local(path):
        assert path.read_bytes() == b"weights"
    assert session.push() == 0
    second.write("plan.json", b"[1]")
    path.unlink()
    assert session.push() == 2

    first.begin()
    assert (first.root / "plan.json").read_bytes() == b"[1]"
    assert not (first.root / WEIGHTS).exists()
    assert set(CloudFiles.objects) == {"bucket/run/plan.json"}


@pytest.mark.parametrize("protocol", CLOUDS)
def test_what_two_computers_have_trained_is_not_mixed(
    protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_cloud(protocol, monkeypatch)
    first, second = (Node(tmp_path / name, f"{protocol}://bucket/run", monkeypatch) for name in ("first", "second"))
    sessions = [first.begin()]
    first.write(WEIGHTS, b"weights")
    sessions.append(second.begin())
    second.write(WEIGHTS, b"others!")
    sessions[1].push()
    monkeypatch.setenv("AUTOSEG_REMOTE_CACHE", str(tmp_path / "first"))
    with pytest.raises(RemoteError, match="was written by another computer since this one began"):
        sessions[0].push()
    assert CloudFiles.objects[f"bucket/run/{WEIGHTS}"][0] == b"others!"


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.remote.store.importlib.util.find_spec", lambda name: None)
    for protocol, (extra, package) in EXTRAS.items():
        with pytest.raises(RemoteError, match=rf"needs the package {package}.*pip install 'autoseg\[{extra}\]'"):
            Store(f"{protocol}://bucket/run")


@pytest.mark.skipif(not SOURCES.is_file(), reason="needs the sources: pyproject.toml is not installed")
def test_every_extra_of_a_protocol_installs_its_package() -> None:
    extras = tomllib.loads(SOURCES.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for extra, package in EXTRAS.values():
        assert [line.partition(">=")[0] for line in extras[extra]] == [package]
