"""Exceptions for errors that the user can correct.

A message says what was expected, what was found, where (file, case, field) and what to do. The command line prints
the message and exits with 1; anything that is not an `AutosegError` is a defect of autoseg and shows its traceback.
"""

from collections.abc import Sequence

from autoseg.problems import Problem, group_problems


class AutosegError(Exception):
    """Base class of all errors that the user can correct."""


class OptionError(AutosegError):
    """The value of a command's option cannot be read."""


class DocumentError(AutosegError):
    """A JSON document is missing, invalid, incomplete, or was written by another version."""


class VolumeError(AutosegError):
    """An image or label file cannot be read or written."""


class GridError(VolumeError):
    """Two files that belong together lie on different grids of the same world."""


class PlanError(AutosegError):
    """No plan exists for a fingerprint, or a plan does not fit what it is used for."""


class RunError(AutosegError):
    """A run folder is missing, incomplete, or already holds what a command would write."""


class DeviceError(AutosegError):
    """The requested device does not exist or cannot hold the work."""


class WorkerError(AutosegError):
    """Worker processes cannot be started."""


class TrainingError(AutosegError):
    """Training cannot start or continue."""


class PredictionError(AutosegError):
    """Prediction cannot start, or images do not fit the model."""


class ExchangeError(AutosegError):
    """A model cannot be imported from or exported to another tool."""


class EvaluationError(AutosegError):
    """Predictions and references cannot be compared."""


class SelectionError(AutosegError):
    """There is nothing to select, or the selected models have changed."""


class Stopped(KeyboardInterrupt):
    """Work was stopped in good order on request; the text says what is kept and how to resume."""


class ProblemsError(AutosegError):
    """Several problems that are reported at once.

    Attributes:
        problems: All problems in the order found. The message has one line for all problems of one kind.
    """

    def __init__(self, heading: str, problems: Sequence[Problem]) -> None:
        self.heading = heading
        self.problems = tuple(problems)
        lines = (f"  - {problem.describe()}" for problem in group_problems(problems))
        super().__init__("\n".join([heading, *lines]))

    def __reduce__(self) -> tuple[type["ProblemsError"], tuple[str, tuple[Problem, ...]]]:
        """Pickles both arguments, so that a worker process can raise the error in its parent."""
        return type(self), (self.heading, self.problems)


class DatasetError(ProblemsError):
    """A dataset does not match its dataset.json."""


class CasesFailedError(ProblemsError):
    """Some cases failed, while the others were finished."""
