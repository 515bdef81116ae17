"""Writes the report of a run as one HTML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from autoseg import __version__
from autoseg.errors import OptionError, RunError
from autoseg.processes.progress import Progress
from autoseg.report.blocks import Section
from autoseg.report.page import Page, ShownCase, read_digest
from autoseg.report.pictures import ERROR_COLOURS, find_colour
from autoseg.report.viewer import SCRIPT
from autoseg.run_folder import check_writable
from autoseg.workflows.report.cases import describe_cases, name_labels, read_scores, show_cases
from autoseg.workflows.report.contents import RunContents, compute_digest, read_contents
from autoseg.workflows.report.dataset import describe_dataset, describe_plan
from autoseg.workflows.report.predicted_cases import read_predictions
from autoseg.workflows.report.predictions import describe_predictions, show_predictions
from autoseg.workflows.report.scores import (
    describe_crossvalidation,
    describe_provenance,
    describe_training,
)
from autoseg.workflows.report.selection import describe_selection

REPORT_NAME: Final = "report.html"
KINDS_OF_ERROR: Final = ("missed", "false", "other class")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOutcome:
    """Result of writing a report.

    Attributes:
        path: The file.
        size_bytes: Its size.
        is_new: False if it showed everything already and was left as it is.
        has_viewer: Whether the 3D viewer is installed.
    """

    path: Path
    size_bytes: int
    is_new: bool
    has_viewer: bool

    def describe(self) -> str:
        """Describes it in one line."""
        state = "written" if self.is_new else "unchanged"
        return f"{state}: {self.path} ({self.size_bytes / 2**20:.1f} MiB)"


def write_report(
    run_root: Path,
    *,
    out: Path | None = None,
    predictions: Path | None = None,
    images: Path | None = None,
    progress: Progress,
) -> ReportOutcome:
    """Writes the report of a run, unless the file shows everything already.

    Args:
        run_root: The run.
        out: The file; None for report.html in the run.
        predictions: Folder of predictions of new images to be shown as well.
        images: Folder of these images, where their record does not tell it, as of DICOM.
        progress: Shows the progress.

    Raises:
        OptionError: Images are named without predictions.
        RunError: There is no run, or the file cannot be written, or is no report and would be replaced.
        DocumentError: A document of the run cannot be read.
        PredictionError: There is no label map in the folder of predictions.
    """
    if images is not None and predictions is None:
        msg = "--images are those of predictions; give --predictions as well"
        raise OptionError(msg)
    contents = read_contents(run_root)
    path = out or run_root / REPORT_NAME
    digest = f"{__version__}-{SCRIPT.is_file():d}-{compute_digest(contents, predictions, images)}"
    earlier = read_digest(path)
    if path.exists() and not earlier:
        msg = f"{path} is no report, and would be replaced; give another --out, or remove it"
        raise RunError(msg)
    is_new = earlier != digest
    if is_new:
        check_writable(path.parent)
        build_page(contents, digest=digest, predictions=predictions, images=images, progress=progress).write(path)
    return ReportOutcome(path=path, size_bytes=path.stat().st_size, is_new=is_new, has_viewer=SCRIPT.is_file())


def build_page(
    contents: RunContents,
    *,
    digest: str = "",
    predictions: Path | None = None,
    images: Path | None = None,
    progress: Progress,
) -> Page:
    """Builds the page from what the run holds so far."""
    result = contents.score()
    sections: list[Section | None] = [describe_dataset(contents), describe_plan(contents.plan)]
    cases: list[ShownCase] = []
    share = 1.0 if predictions is None or result is None else 0.5
    if predictions is not None:
        predicted = read_predictions(predictions, contents.plan, contents.fingerprint, image_folder=images)
        if predicted.lacks_images:
            progress.note("the predictions are shown without their images, as nothing tells where they are (--images)")
        sections.insert(0, describe_predictions(predicted, predictions, contents.plan))
        cases += show_predictions(predicted.cases, contents.plan, share=share, progress=progress)
    if contents.splits is not None:
        sections.append(describe_training(contents))
    if result is not None:
        scores = read_scores(contents)
        sections += [describe_crossvalidation(contents, result), describe_cases(contents, scores, result)]
        cases += show_cases(contents, scores, share=share, progress=progress)
    if contents.selection is not None:
        sections.append(describe_selection(contents.selection, contents.calibration))
    sections.append(describe_provenance(contents))
    names = name_labels(contents.plan.labels)
    if predictions is not None and contents.plan.instances is not None:
        names += contents.plan.dataset_labels.class_names
    return Page(
        title=contents.plan.dataset_name,
        subtitle=f"Report of the run {contents.run.root.resolve().name}, planner {contents.plan.planner}",
        sections=[section for section in sections if section is not None],
        cases=cases,
        label_names=names,
        colours=[find_colour(label) for label in range(1, len(names) + 1)],
        error_colours=list(zip(KINDS_OF_ERROR, ERROR_COLOURS, strict=True)),
        digest=digest,
    )
