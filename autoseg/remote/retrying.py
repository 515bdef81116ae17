"""Repeats transfers that fail for a reason that may pass, and explains those that do not succeed."""

import errno
import time
from collections.abc import Callable
from typing import Final, TypeVar

from autoseg.errors import RemoteError, UnreachableError
from autoseg.remote.address import hide_secrets

Result = TypeVar("Result")

PAUSES_SECONDS: Final = (1.0, 2.0, 4.0)
"""Pauses between the tries, of which there is one more; the libraries of the protocols try a few times themselves."""
LASTING: Final = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
ERRORS_OF_A_FULL_DISK: Final = frozenset([errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
LASTING_NAMES: Final = frozenset(
    [
        *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "ParamValidationError"),
        *("DefaultCredentialsError", "RefreshError", "ClientAuthenticationError", "AuthenticationException"),
        *("BadHostKeyException", "InvalidRegionError"),
    ]
)
"""Errors of the libraries, by class, that another try does not change."""
LIBRARIES: Final = frozenset(
    ["aiobotocore", "aiohttp", "asyncio", "azure", "botocore", "fsspec", "gcsfs", "google", "paramiko", "requests"]
)
"""Packages whose exceptions are failures of a transfer, as those of the operating system are."""
LONGEST_REASON: Final = 300  # characters


class TruncatedTransferError(OSError):
    """A transfer ended early without an error."""


def retry(action: Callable[[], Result], *, what: str, sleep: Callable[[float], None] | None = None) -> Result:
    """Calls a function until it succeeds, a limited number of times.

    Args:
        action: Transfers something; may be repeated.
        what: Completes "cannot ..." in the message, with the URL.
        sleep: Waits between the tries.

    Raises:
        RemoteError: It failed for a reason that lasts.
        UnreachableError: It failed every time.
        FileNotFoundError: The file does not exist.
    """
    pauses = iter(PAUSES_SECONDS)
    while True:
        try:
            return action()
        except FileNotFoundError:
            raise
        except Exception as error:
            if not _is_failed_transfer(error):
                raise
            pause = None if _lasts(error) else next(pauses, None)
            if pause is None:
                kind = RemoteError if _lasts(error) else UnreachableError
                raise kind(_describe(error, what)) from error
            (sleep or time.sleep)(pause)


def _is_failed_transfer(error: Exception) -> bool:
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, OSError | EOFError) or not LIBRARIES.isdisjoint(packages)


def _lasts(error: Exception) -> bool:
    if isinstance(error, LASTING) or _is_of_disk(error):
        return True
    return not LASTING_NAMES.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _is_of_disk(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in ERRORS_OF_A_FULL_DISK


def _describe(error: Exception, what: str) -> str:
    lines = str(error).strip().splitlines() or [""]
    reason = hide_secrets(f"{type(error).__name__}: {lines[0]}")[:LONGEST_REASON]
    if _lasts(error):
        advice = "correct the URL, or what this computer may read and write there"
        if _is_of_disk(error):
            advice = "free space for the cache, or let it hold less: export AUTOSEG_REMOTE_CACHE_GB=NUMBER"
        return f"cannot {what} ({reason}); {advice}"
    tries = len(PAUSES_SECONDS) + 1
    return f"cannot {what}, tried {tries} times ({reason}); nothing is lost: repeat the command when it can be reached"
