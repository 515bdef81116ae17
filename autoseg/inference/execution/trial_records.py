"""Results of trials of executions, stored in the user's cache folder for later calls."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from autoseg.document import Document, read_document, write_document
from autoseg.errors import DocumentError, RunError
from autoseg.inference.execution.batch_size import InferenceConditions
from autoseg.inference.execution.preparation import Execution
from autoseg.runtime.measurement_cache import find_measurement_cache
from autoseg.runtime.precision import DtypeName

TOLERANCES: Final[Mapping[DtypeName, float]] = {"float32": 1e-3, "bfloat16": 0.05, "float16": 0.05}
"""Mean difference from the logits of eager PyTorch, in their standard deviations. Rounding makes 1e-6 in single
precision; in bfloat16 two ways of rounding differ by 0.01 to 0.02, like either from single precision (measured)."""

logger = logging.getLogger(__name__)


class ExecutionRecord(Document):
    """The stored result of a trial.

    Attributes:
        made_by: Version of the library that runs the network.
        start_seconds: Preparation and first call.
        difference: Mean difference from the logits of eager PyTorch, in their standard deviations.
    """

    schema_version: Literal[1] = 1
    circumstances: InferenceConditions
    execution: Execution
    made_by: str
    inference_batch_size: int
    start_seconds: float
    seconds_per_patch: float
    difference: float

    @property
    def is_exact_enough(self) -> bool:
        """Returns whether the execution is exact enough to be chosen."""
        return self.difference <= TOLERANCES[self.circumstances.dtype]

    def estimate_seconds(self, patches: int) -> float:
        """Estimates the duration of a whole job."""
        return self.start_seconds + patches * self.seconds_per_patch


def find_fastest(records: Sequence[ExecutionRecord], patches: int) -> ExecutionRecord:
    """Returns the fastest of the exact ones, by the total time for a number of patches."""
    return min((record for record in records if record.is_exact_enough), key=lambda r: r.estimate_seconds(patches))


def recall(
    circumstances: InferenceConditions, execution: Execution, made_by: str, *, inference_batch_size: int
) -> ExecutionRecord | None:
    """Reads the result of a trial under the same conditions; None if there is none."""
    try:
        record = read_document(_get_path(circumstances, execution), ExecutionRecord)
    except DocumentError:
        return None  # not there, or of another version
    known = (record.circumstances, record.made_by, record.inference_batch_size)
    return record if known == (circumstances, made_by, inference_batch_size) else None


def remember(record: ExecutionRecord) -> None:
    """Writes the result of a trial; a folder that cannot be written is reported in the log."""
    try:
        write_document(_get_path(record.circumstances, record.execution), record)
    except RunError as error:
        logger.warning("what %s takes is measured in every call: %s", record.execution, error)


def _get_path(circumstances: InferenceConditions, execution: Execution) -> Path:
    digest = hashlib.sha256(circumstances.model_dump_json().encode()).hexdigest()[:32]
    return find_measurement_cache("executions") / f"{digest}.{execution}.json"
