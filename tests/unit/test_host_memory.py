import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import resource, sys
import numpy as np
from autoseg.host_memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(20):
    np.ones(8 * 2**20)  # 64 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def count_page_faults(mode: str, folder: Path) -> int:
    done = subprocess.run([sys.executable, "-c", PROBE, mode], capture_output=True, text=True, check=True, cwd=folder)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_arrays_are_reused_instead_of_being_mapped_again(tmp_path: Path) -> None:
    kept, mapped = count_page_faults("keep", tmp_path), count_page_faults("leave", tmp_path)
    assert kept < mapped / 2
