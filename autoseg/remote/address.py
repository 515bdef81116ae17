"""URLs of datasets and runs: how they are recognized, checked and shown."""

import re
from pathlib import Path
from typing import Final

from autoseg.errors import RemoteError

URL: Final = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+)://(?P<place>.+)", flags=re.IGNORECASE)
COLLAPSED: Final = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+):/+(?P<place>.+)", flags=re.IGNORECASE)
LOCAL_PROTOCOLS: Final = ("file", "local")
SECRET: Final = re.compile(
    r"[?&;](?:sig|auth|pwd|[\w.-]*(?:token|signature|secret|passw|key|credential)[\w.-]*)=", re.IGNORECASE
)
QUERY: Final = re.compile(r"\?\S+")
USER: Final = re.compile(r"(?<=://)[^/\s@]*:[^/\s]*@")

EXTRAS: Final = {
    "s3": ("s3", "s3fs"),
    "s3a": ("s3", "s3fs"),
    "gs": ("gcs", "gcsfs"),
    "gcs": ("gcs", "gcsfs"),
    "az": ("abfs", "adlfs"),
    "abfs": ("abfs", "adlfs"),
    "abfss": ("abfs", "adlfs"),
    "ssh": ("ssh", "paramiko"),
    "sftp": ("ssh", "paramiko"),
}
"""Extra of autoseg and package of each protocol that needs one."""
OBJECT_STORES: Final = frozenset(["s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"])
"""Protocols of stores that show an object when it is complete, and list all objects below a name at once."""


CONNECTED_PROTOCOLS: Final = frozenset(["ssh", "sftp"])
"""Protocols with one connection, which passes on one transfer at a time and must be opened anew when it breaks."""


def find_url(path: Path) -> str | None:
    """Finds the URL that an argument of the command line names; None for a local path.

    `pathlib` writes `s3://bucket/name` as `s3:/bucket/name`. What exists under that name here is a local path.
    """
    match = COLLAPSED.fullmatch(path.as_posix())
    if match is None or path.exists():
        return None
    protocol = match["protocol"].lower()
    return f"{protocol}://{'/' if protocol in LOCAL_PROTOCOLS else ''}{match['place']}"


def is_url(text: str) -> bool:
    """Returns whether a text is a URL."""
    return URL.fullmatch(text) is not None


def join_url(folder: str, name: str) -> str:
    """Returns the URL of a file in a folder; a name that is a URL itself stays."""
    return name if is_url(name) else f"{folder}/{name}"


def find_protocol(url: str) -> str:
    """Returns the protocol of a URL."""
    return url.partition("://")[0]


def check_url(url: str) -> None:
    """Checks that a URL holds no secret, which would be written into files and messages, and names one place.

    Raises:
        RemoteError: It does.
    """
    if USER.search(url) or SECRET.search(url):
        msg = (
            f"{hide_secrets(url)}: a URL may hold no password, key or signature, as it is written into the run; put "
            f"them where the library of the protocol looks for them (see docs/how-to/remote-data.md)"
        )
        raise RemoteError(msg)
    if "::" in url or not URL.fullmatch(url):
        msg = f"expected a URL such as s3://bucket/folder, found {url}"
        raise RemoteError(msg)


def hide_secrets(text: str) -> str:
    """Removes what may hold a secret from a text: passwords and queries of URLs."""
    return QUERY.sub("?...", USER.sub("...@", text))
