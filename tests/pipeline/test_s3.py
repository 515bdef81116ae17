"""Datasets and runs in a real server of S3, also over connections that break.

`make s3-test` installs the server; without it these tests are skipped.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders.balls import make_case, save
from builders.command_line import run_autoseg
from builders.hosts import HOST
from builders.plans import shorten
from builders.s3_server import Proxy, serve_s3
from safetensors.numpy import load_file

from autoseg.remote import retrying
from autoseg.remote.mirror import open_mirror
from autoseg.remote.store import Store
from autoseg.remote.syncing import Synchronizer
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.workflows.plan.host_speed import find_host_speed

pytestmark = pytest.mark.slow
WEIGHTS = "models/3d_fullres/fold_0/checkpoint_final.safetensors"
URL = "s3://bucket/balls.autoseg"
PUSH = """
from autoseg.remote.mirror import open_mirror
from autoseg.remote.syncing import Synchronizer
session = Synchronizer(open_mirror("s3://bucket/run", is_file=False))
session.pull()
session.push()
"""


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "first"))
    monkeypatch.setattr(retrying, "PAUSES_SECONDS", (0.1, 0.1))
    with serve_s3(monkeypatch) as opened:
        yield opened


@pytest.fixture
def bucket(proxy: Proxy) -> Any:
    import fsspec

    return fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)


def run(*arguments: object, code: int = 0) -> str:
    done = run_autoseg(*arguments)
    assert done.code == code, done.err
    assert "hunter2" not in done.out + done.err
    return done.out + done.err


def test_a_run_in_s3_equals_a_local_one(
    bucket: Any, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_host_speed(find_measurement_cache("host_speed"), measure=lambda: HOST)  # which takes seconds
    bucket.put(str(dataset), f"bucket/{dataset.name}", recursive=True)
    images = save(tmp_path / "images" / "new_0000.nii.gz", make_case(200)[0]).parent
    bucket.put(str(images), "bucket/images", recursive=True)
    assert "6 cases, 0 problems" in run("check", f"s3://bucket/{dataset.name}", "--workers", 1)
    planning = ("--workers", 1, "--configuration", "3d_fullres")
    training = ("--configuration", "3d_fullres", "--fold", "0", "--device", "cpu", "--workers", 0)
    local = tmp_path / "balls.autoseg"
    run("plan", dataset, "--run", local, *planning)
    shorten(local, "3d_fullres", epochs=1, iterations=2)
    run("train", local, *training)
    run("plan", f"s3://bucket/{dataset.name}", "--run", URL, *planning)
    bucket.get_file("bucket/balls.autoseg/plan.json", str(tmp_path / "plan.json"))
    shorten(tmp_path, "3d_fullres", epochs=1, iterations=2)
    assert (tmp_path / "plan.json").read_bytes() == (local / "plan.json").read_bytes()
    bucket.put_file(str(tmp_path / "plan.json"), "bucket/balls.autoseg/plan.json")
    run("train", URL, *training)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "second"))
    run("predict", URL, "s3://bucket/images", "s3://bucket/out", "--device", "cpu")
    assert "finished" in run("status", URL)

    bucket.get("bucket/balls.autoseg", str(tmp_path / "run"), recursive=True)
    bucket.get("bucket/out", str(tmp_path / "out"), recursive=True)
    expected, found = load_file(local / WEIGHTS), load_file(tmp_path / "run" / WEIGHTS)
    assert {name for name in expected if expected[name].tobytes() != found[name].tobytes()} <= {"checksums"}
    run("predict", local, images, tmp_path / "local", "--device", "cpu")
    assert (tmp_path / "out" / "new.nii.gz").read_bytes() == (tmp_path / "local" / "new.nii.gz").read_bytes()
    published = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in published if b"hunter2" in path.read_bytes() or path.name.endswith(".lock")]


def test_a_transfer_over_a_connection_that_breaks_is_repeated(proxy: Proxy, bucket: Any, tmp_path: Path) -> None:
    content = os.urandom(2**20)
    bucket.pipe_file("bucket/run/a", content)
    store = Store("s3://bucket/run")
    proxy.fail(2, after_bytes=2**18)
    store.download("a", tmp_path / "a")
    assert proxy.remaining_faults == 0
    assert (tmp_path / "a").read_bytes() == content
    proxy.fail(2, after_bytes=2**18)
    store.upload(tmp_path / "a", "b")
    assert proxy.remaining_faults == 0
    assert bucket.cat_file("bucket/run/b") == content


def test_a_server_that_cannot_be_reached_ends_a_command_with_its_url(proxy: Proxy, bucket: Any) -> None:
    proxy.fail(1000, after_bytes=0)
    store = Store("s3://bucket/run")
    with pytest.raises(retrying.UnreachableError, match=r"cannot list s3://bucket/run, tried 3 times"):
        store.list_files()


def test_a_process_that_is_killed_while_it_publishes_leaves_the_old_object(
    proxy: Proxy, bucket: Any, tmp_path: Path
) -> None:
    bucket.pipe_file("bucket/run/checkpoint.safetensors", b"the old weights")
    mirror = open_mirror("s3://bucket/run", is_file=False)
    Synchronizer(mirror).pull()
    content = os.urandom(2**26)
    path = mirror.root / "checkpoint.safetensors"
    path.unlink()
    path.write_bytes(content)
    before = proxy.passed_bytes
    process = subprocess.Popen([sys.executable, "-c", PUSH])
    while proxy.passed_bytes < before + 2**22:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert bucket.cat_file("bucket/run/checkpoint.safetensors") == b"the old weights"
    assert path.read_bytes() == content
    session = Synchronizer(mirror)
    session.pull()
    assert session.push() == 1
    assert bucket.cat_file("bucket/run/checkpoint.safetensors") == content


def test_a_bucket_that_does_not_exist_is_no_network_failure(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    with pytest.raises(retrying.RemoteError, match="no such bucket") as told:
        Store("s3://other/run").upload(tmp_path / "a", "a")
    assert not isinstance(told.value, retrying.UnreachableError)
    shutil.rmtree(tmp_path / "first", ignore_errors=True)
