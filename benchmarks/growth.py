"""Cost of every stage as the number of cases grows: `python -m benchmarks.growth [--cases 20 200 2000]`.

Each stage runs in a process of its own, on made-up cases of 8 x 8 x 8 voxels that are small enough to show what a case
costs beside its voxels. For `--simulated`, a larger run is made of links and copies of the second smallest one: stages
whose cost is not that of single files are measured there. A stage that would take longer than `--longest` by the
measurement before it is left out. What was measured is kept in `--work`, so that an interrupted call continues.
"""

import argparse
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import psutil

from benchmarks.machine import describe_machine

DEFAULT_CASES: Final = (20, 200, 2000)
DEFAULT_SIMULATED: Final = (20000,)
DEFAULT_LONGEST_SECONDS: Final = 180.0
SECONDS_BETWEEN_LOOKS: Final = 0.1
JSON_ENDINGS: Final = (".json", ".jsonl", ".csv", ".html")
DATASET: Final = "dataset"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """Cost of a stage with some number of cases.

    Attributes:
        cpu_seconds: CPU time of all processes.
        own_cpu_seconds: CPU time of the main process.
        start_bytes: Resident memory of the main process before the stage.
        peak_bytes: The most that it had meanwhile.
        most_descriptors: The most files that it had open.
        left_descriptors: Files that are open afterwards and were not before.
        document_bytes: Size of the largest document that the stage wrote.
    """

    cpu_seconds: float
    own_cpu_seconds: float
    wall_seconds: float
    start_bytes: int
    peak_bytes: int
    most_descriptors: int
    left_descriptors: int
    document_bytes: int


def main() -> None:
    """Measures and prints a table in Markdown; with --stage, runs one stage and prints its cost as JSON."""
    arguments = parse_arguments()
    if arguments.stage is not None:
        template = arguments.template and arguments.work / str(arguments.template)
        cost = measure_stage(arguments.stage, arguments.work / str(arguments.cases[0]), arguments.cases[0], template)
        print(json.dumps(asdict(cost)))
        return
    print(f"{describe_machine()}\n\n{HEADING}")
    known: dict[str, tuple[int, StageCost]] = {}
    for stage in arguments.only or list_stages():
        for cases in arguments.cases:
            print_cost(stage, cases, arguments, known=known)
    template = sorted(arguments.cases)[:2][-1]
    for cases in arguments.simulated:
        for stage in [stage for stage in list_stages(is_simulated=True) if stage in (arguments.only or list_stages())]:
            print_cost(stage, cases, arguments, known=known, template=template)


def print_cost(
    stage: str,
    cases: int,
    arguments: argparse.Namespace,
    *,
    known: dict[str, tuple[int, StageCost]],
    template: int | None = None,
) -> None:
    """Prints one row; `known` holds the last measurement of each stage."""
    earlier = known.get(stage)
    cost = find_cost(
        stage, cases, arguments.work, earlier=earlier, longest_seconds=arguments.longest, template=template
    )
    name = cases if template is None else f"{cases}, simulated"
    if cost is None:
        print(f"| {stage} | {name} | would take too long |", flush=True)
        return
    print(format_row(stage, name, cost, cases=cases, earlier=earlier), flush=True)
    known[stage] = cases, cost


def parse_arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, nargs="+", default=list(DEFAULT_CASES))
    parser.add_argument("--simulated", type=int, nargs="*", default=list(DEFAULT_SIMULATED))
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="stages to measure; their data must be there")
    parser.add_argument("--longest", type=float, default=DEFAULT_LONGEST_SECONDS, help="CPU seconds of a stage")
    parser.add_argument("--work", type=Path, default=Path("growth"), help="folder that is kept")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--template", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def list_stages(*, is_simulated: bool = False) -> list[str]:
    """Lists all stages in their order; each needs what the ones before it wrote."""
    from benchmarks.growth_stages import SIMULATED, STAGES

    return [DATASET, *(SIMULATED if is_simulated else STAGES)]


def find_cost(
    stage: str,
    cases: int,
    work: Path,
    *,
    earlier: tuple[int, StageCost] | None,
    longest_seconds: float,
    template: int | None,
) -> StageCost | None:
    """Returns the cost as it was measured before, or measures it; None where that would take too long."""
    kept = work / "costs" / f"{stage.replace(' ', '_')}_{cases}.json"
    if kept.is_file():
        return StageCost(**json.loads(kept.read_text()))
    if earlier is not None and earlier[1].cpu_seconds * cases / earlier[0] > longest_seconds:
        return None
    command = [sys.executable, "-m", "benchmarks.growth", "--work", str(work), "--cases", str(cases), "--stage", stage]
    command += [] if template is None else ["--template", str(template)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"{stage} with {cases} cases failed; its own message stands above")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(done.stdout.splitlines()[-1])
    return StageCost(**json.loads(kept.read_text()))


def measure_stage(stage: str, work: Path, cases: int, template: Path | None) -> StageCost:
    """Runs one stage in this process and measures it."""
    from benchmarks.growth_simulation import simulate_run
    from benchmarks.growth_stages import STAGES, Folders, write_dataset

    folders = Folders(root=work)
    if stage == DATASET:
        shutil.rmtree(work, ignore_errors=True)
    usage = Usage()
    started, own, before = time.perf_counter(), time.process_time(), sum_cpu_seconds()
    begun = time.time()
    with usage.watch():
        if stage != DATASET:
            STAGES[stage](folders)
        elif template is None:
            write_dataset(folders, cases)
        else:
            simulate_run(folders, cases, Folders(root=template))
    return StageCost(
        cpu_seconds=sum_cpu_seconds() - before,
        own_cpu_seconds=time.process_time() - own,
        wall_seconds=time.perf_counter() - started,
        start_bytes=usage.start_bytes,
        peak_bytes=read_peak_bytes(),
        most_descriptors=usage.most_descriptors,
        left_descriptors=count_descriptors() - usage.start_descriptors,
        document_bytes=find_largest_document(work, since=begun),
    )


@dataclass(slots=True)
class Usage:
    """Looks at what this process holds while a stage runs."""

    start_bytes: int = field(default_factory=lambda: psutil.Process().memory_info().rss)
    start_descriptors: int = field(default_factory=lambda: count_descriptors())
    most_descriptors: int = 0

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Counts open files a few times in a second."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak of the memory is measured anew
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _look(self, ended: threading.Event) -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            self.most_descriptors = max(self.most_descriptors, count_descriptors())


def count_descriptors() -> int:
    """Counts the files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def read_peak_bytes() -> int:
    """Reads the peak of the resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) * 1024


def sum_cpu_seconds() -> float:
    """Sums the CPU time of this process and of all that it has started, which must be ended or idle."""
    total = sum(psutil.Process().cpu_times()[:4])
    for process in psutil.Process().children(recursive=True):
        total += sum(process.cpu_times()[:4])
    return total


def find_largest_document(work: Path, *, since: float) -> int:
    """Finds the size of the largest document that was written since a time."""
    sizes = (
        path.stat().st_size for path in work.rglob("*") if path.suffix in JSON_ENDINGS and path.stat().st_mtime >= since
    )
    return max(sizes, default=0)


HEADING: Final = (
    "| stage | cases | CPU (s) | a further case (ms) | of it, main process (ms) | peak memory (MiB) | "
    "a further case (bytes) | open files | left open | largest document (bytes a case) |\n"
    "|---|---|---|---|---|---|---|---|---|---|"
)


def format_row(
    stage: str, name: str | int, cost: StageCost, *, cases: int, earlier: tuple[int, StageCost] | None
) -> str:
    """Formats one row; what a further case takes is the difference to the measurement with fewer cases."""
    further: Sequence[str] = ("", "", "")
    if earlier is not None:
        more = cases - earlier[0]
        further = (
            f"{1000 * (cost.cpu_seconds - earlier[1].cpu_seconds) / more:.2f}",
            f"{1000 * (cost.own_cpu_seconds - earlier[1].own_cpu_seconds) / more:.2f}",
            f"{(cost.peak_bytes - earlier[1].peak_bytes) / more:.0f}",
        )
    cells: Sequence[object] = (
        stage,
        name,
        f"{cost.cpu_seconds:.1f}",
        *further[:2],
        f"{cost.peak_bytes / 2**20:.0f}",
        further[2],
        cost.most_descriptors,
        cost.left_descriptors,
        f"{cost.document_bytes / cases:.0f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
