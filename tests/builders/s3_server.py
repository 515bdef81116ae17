"""A real server of S3 on this computer (moto's), and a connection to it that breaks when a test wants it."""

import atexit
import functools
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pytest

CHUNK_BYTES: Final = 2**14
SECONDS_TO_ANSWER: Final = 60.0
NEEDED: Final = ("moto", "flask", "flask_cors", "s3fs")


class Proxy:
    """Passes connections on to a server, and breaks those that have passed too much.

    Attributes:
        most_bytes: Bytes of an answer, or of a request, after which a connection is broken; None: never.
        remaining_faults: Number of connections to break.
        passed_bytes: Bytes that were passed on to the server.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self.most_bytes: int | None = None
        self.remaining_faults = 0
        self.passed_bytes = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def fail(self, times: int, *, after_bytes: int) -> None:
        """Breaks the next connections that pass more than some bytes."""
        self.remaining_faults, self.most_bytes = times, after_bytes

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server_port))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, target, client, server), daemon=True).start()

    def _pass_on(
        self, source: socket.socket, target: socket.socket, client: socket.socket, server: socket.socket
    ) -> None:
        passed = 0
        with suppress(OSError):
            while chunk := source.recv(CHUNK_BYTES):
                passed += len(chunk)
                self.passed_bytes += len(chunk) if target is server else 0
                if self.remaining_faults > 0 and self.most_bytes is not None and passed > self.most_bytes:
                    self.remaining_faults -= 1
                    break
                target.sendall(chunk)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def serve_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Serves an empty store with a bucket `bucket`; AWS's variables name the connection that may break."""
    for package in NEEDED:
        pytest.importorskip(package, reason=f"{package} is not installed (make s3-test installs a server of S3)")
    import fsspec

    port = start_server()
    reset = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset, timeout=SECONDS_TO_ANSWER).close()
    proxy = Proxy(port)
    settings = {
        "ENDPOINT_URL": proxy.url,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "hunter2",
        "DEFAULT_REGION": "us-east-1",
        "MAX_ATTEMPTS": "1",  # of the library; autoseg tries again itself
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    try:
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # connections to the servers of other tests
        files = fsspec.filesystem("s3", skip_instance_cache=True)
        files.mkdir("bucket")
        yield proxy
    finally:
        proxy.close()


@functools.cache
def start_server() -> int:
    """Starts the server, once for all tests of this process, and returns its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    atexit.register(lambda: (server.kill(), server.wait()))
    wait_for(port, server)
    return port


def wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    """Waits until the server answers."""
    deadline = time.monotonic() + SECONDS_TO_ANSWER
    while time.monotonic() < deadline and server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    pytest.fail("the server of S3 does not answer")
