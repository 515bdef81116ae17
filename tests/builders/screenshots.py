"""Takes the screenshots of docs/how-to/report.md, and tells size and time of the report: `make screenshots RUN=...`."""

import sys
import tempfile
import time
from pathlib import Path

from autoseg.processes.progress import SilentProgress
from autoseg.workflows.report.reporting import write_report
from builders.browser import Tab, find_browser, open_browser

SIZE = (1180, 760)


def main(run: Path, folder: Path) -> None:
    """Writes report_page.webp and report_viewer.webp into a folder."""
    program = find_browser()
    if program is None:
        sys.exit("expected an installed browser, found none; for Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as name:
        begin, cpu = time.monotonic(), time.process_time()
        outcome = write_report(run, out=Path(name) / "report.html", progress=SilentProgress())
        seconds, cpu_seconds = time.monotonic() - begin, time.process_time() - cpu
        sys.stdout.write(f"{outcome.size_bytes / 2**20:.1f} MiB, {cpu_seconds:.1f} s of CPU in {seconds:.0f} s\n")
        with open_browser(program, Path(name), size=SIZE) as tab:
            tab.open(outcome.path)
            take(tab, folder)


def take(tab: Tab, folder: Path) -> None:
    """Takes the cases with their slices, and the viewer of the median case."""
    tab.evaluate("document.querySelector('#cases').scrollIntoView({ behavior: 'instant' })")
    time.sleep(1)  # the navigation marks the section in view
    tab.take_screenshot(folder / "report_page.webp", quality=70)
    tab.evaluate("document.querySelectorAll('.card')[1].click()")
    tab.wait_for("document.querySelector('#panel').dataset.state === 'shown'")
    time.sleep(3)
    tab.take_screenshot(folder / "report_viewer.webp", quality=70)
    if problems := tab.list_problems():
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
