"""The intensities of a dataset are pooled with few of them in memory, and the result is the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoseg.errors import RunError
from autoseg.measurement import foreground, merge_channels, open_summary_store
from autoseg.measurement.foreground import (
    IntensitySummary,
    StoredSummary,
    SummaryStore,
    select_mixture_quantiles,
    summarize_intensities,
)
from autoseg.measurement.foreground import (
    merge_channels as merge,
)

DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "of CT": lambda generator, count: generator.normal(0, 200, count).round(),
    "of MR": lambda generator, count: generator.gamma(2, 300, count),
    "of one value": lambda generator, count: np.full(count, -3.5),
    "around zero": lambda generator, count: generator.choice([-0.0, 0.0, 1e-30, -1e-30], count),
}


def make_summaries(kind: str, *, cases: int = 12) -> list[tuple[IntensitySummary, ...]]:
    """Summaries of cases of different sizes; the third one has no foreground."""
    generator = np.random.default_rng(0)
    values = [DISTRIBUTIONS[kind](generator, 40 * index + 1).astype(np.float32) for index in range(cases)]
    return [() if index == 2 else (summarize_intensities(of_case),) for index, of_case in enumerate(values)]


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_what_is_stored_in_a_file_gives_the_same_statistics(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    summaries = make_summaries(kind)
    monkeypatch.setattr(foreground, "MOST_VALUES_IN_MEMORY", 100)
    with open_summary_store() as store:
        kept = [store.keep(of_case) for of_case in summaries]
        assert merge_channels(kept, ["MR"]) == merge_channels(summaries, ["MR"])
    in_memory = [one for of_case in kept for one in of_case if isinstance(one, IntensitySummary)]
    assert sum(one.size for one in in_memory) <= 100
    assert [len(of_case) for of_case in kept] == [len(of_case) for of_case in summaries]


def test_the_statistics_of_stored_values_load_one_case_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "MOST_VALUES_IN_MEMORY", 0)
    loaded: list[int] = []
    load = StoredSummary.load

    def count_and_load(summary: StoredSummary) -> IntensitySummary:
        loaded.append(summary.position)
        return load(summary)

    monkeypatch.setattr(StoredSummary, "load", count_and_load)
    with open_summary_store() as store:
        kept = [store.keep(of_case) for of_case in make_summaries("of MR")]
        merge(kept, ["MR"])
    positions = [of_case[0].position for of_case in kept if of_case and isinstance(of_case[0], StoredSummary)]
    assert loaded == positions * 2  # the upper half of the values, then the lower half


def test_every_quantile_of_few_values_is_the_one_of_the_sorted_values() -> None:
    summaries = [one for of_case in make_summaries("of CT", cases=6) for one in of_case]
    doubled = [replace(one, counts=one.counts * 2) for one in summaries]
    assert (
        select_mixture_quantiles(lambda: iter(doubled)).tolist()
        == foreground._compute_mixture_quantiles(summaries).tolist()
    )


FULL_DISK = Path("/dev/full")


@pytest.mark.skipif(not FULL_DISK.exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_reported_with_the_variable_that_names_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground, "MOST_VALUES_IN_MEMORY", 0)
    file = FULL_DISK.open("r+b")
    with pytest.raises(RunError, match=r"No space left on device; .* set TMPDIR to another folder"):
        SummaryStore(file).keep(make_summaries("of CT")[0])
    with pytest.raises(OSError, match="No space left"):
        file.close()
