import subprocess
import sys
from pathlib import Path

import pytest

from autoseg.runtime.host_memory import find_free_ram

PROBE = """
import ctypes, sys
import numpy as np
from autoseg.runtime.host_memory import keep_freed_memory

FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()

class Usage(ctypes.Structure):  # mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in FIELDS]

for limit in sys.argv[1:]:
    assert keep_freed_memory(int(limit) * 2**20)
measure = ctypes.CDLL(None).mallinfo2
measure.restype = Usage
before = measure().hblkhd
array = np.ones(8 * 2**20)  # 64 MiB
print(measure().hblkhd - before)
"""


def count_mapped_bytes(folder: Path, *limits_mib: int) -> int:
    """How many bytes of a large array the C library maps apart, to give them back when the array is freed."""
    command = [sys.executable, "-c", PROBE, *map(str, limits_mib)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt and mallinfo2 are glibc's")
def test_large_arrays_come_from_memory_that_is_kept_instead_of_being_mapped_apart(tmp_path: Path) -> None:
    assert count_mapped_bytes(tmp_path) >= 64 * 2**20
    assert count_mapped_bytes(tmp_path, 1024) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt and mallinfo2 are glibc's")
def test_what_is_larger_than_asked_for_is_given_back_and_the_largest_wish_counts(tmp_path: Path) -> None:
    assert count_mapped_bytes(tmp_path, 32) >= 64 * 2**20
    assert count_mapped_bytes(tmp_path, 128, 32) == 0
    assert count_mapped_bytes(tmp_path, 32, 128) == 0


@pytest.mark.parametrize("prefix", ["", "total_"])
def test_free_memory_is_what_the_limit_leaves_and_cached_files_are_free(tmp_path: Path, prefix: str) -> None:
    own = tmp_path / "own"
    own.write_text("0::/\n")
    everything = find_free_ram(tmp_path, own)
    assert everything > 10**8
    for name, value in (("max", "90000000"), ("current", "60000000")):
        (tmp_path / f"memory.{name}").write_text(f"{value}\n")
    assert find_free_ram(tmp_path, own) == 30_000_000
    (tmp_path / "memory.stat").write_text(
        f"anon 5\n{prefix}inactive_file 9000000\n{prefix}active_file 1000000\ndirty no number\n"
    )
    assert find_free_ram(tmp_path, own) == 40_000_000
    (tmp_path / "memory.current").write_text("120000000\n")
    assert find_free_ram(tmp_path, own) == 0
