"""Programs that stand for those of Slurm: they write down what they are asked and answer what a test has prepared."""

import os
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = {
    "srun": "exit 0",
    "sbatch": """
if [ -e "$HERE/refusal" ]; then cat "$HERE/refusal" >&2; exit 1; fi
number=$(($(ls "$HERE" | grep -c '^script') + 1))
cp "$1" "$HERE/script_$number"
echo "Submitted batch job $number"
""",
    "squeue": """
echo "$@" >> "$HERE/asked"
if [ -e "$HERE/error" ]; then cat "$HERE/error" >&2; exit 1; fi
cat "$HERE/queue"
""",
    "sinfo": 'cat "$HERE/partitions"',
    "sacct": 'echo "$@" >> "$HERE/accounting"; cat "$HERE/ends"',
    "scancel": 'echo "$@" >> "$HERE/cancelled"',
}


@dataclass(frozen=True)
class FakeSlurm:
    """A folder of programs and of what they were asked."""

    folder: Path

    def show_queue(self, *lines: str) -> None:
        """Prepares the answer of squeue: lines of identifier, state, nodes and reason."""
        (self.folder / "queue").write_text("".join(f"{line}\n" for line in lines))

    def show_partitions(self, *lines: str) -> None:
        """Prepares the answer of sinfo: lines of name and time limit; without, it fails."""
        (self.folder / "partitions").write_text("".join(f"{line}\n" for line in lines))

    def show_ends(self, *lines: str) -> None:
        """Prepares the answer of sacct: lines of identifier, state, exit code and nodes; without, it fails."""
        (self.folder / "ends").write_text("".join(f"{line}\n" for line in lines))

    def fail(self, program: str, message: str) -> None:
        """Lets squeue or sbatch fail with a message."""
        (self.folder / {"squeue": "error", "sbatch": "refusal"}[program]).write_text(message)

    def read_scripts(self) -> list[str]:
        """The scripts that were given to sbatch."""
        return [path.read_text() for path in sorted(self.folder.glob("script_*"))]

    def read(self, name: str) -> list[str]:
        """The lines of `asked`, `accounting` or `cancelled`."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


def write_fake_slurm(folder: Path) -> FakeSlurm:
    """Writes the programs; the folder is to be put into PATH."""
    folder.mkdir()
    for name, body in PROGRAMS.items():
        path = folder / name
        path.write_text(f'#!/bin/sh\nHERE="{folder}"\n{body}\n')
        path.chmod(0o755)
    slurm = FakeSlurm(folder=folder)
    slurm.show_queue()
    return slurm


def prepend_to_path(folder: Path) -> str:
    """PATH with a folder before all others."""
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
