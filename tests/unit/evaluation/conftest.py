"""Label schemes."""

from collections.abc import Callable

import pytest

from autoseg.labels import LabelClass, LabelScheme

MakeScheme = Callable[..., LabelScheme]


@pytest.fixture
def make_scheme() -> MakeScheme:
    """Classes by name and values; several values make a region; regions need values to write."""

    def make(
        classes: dict[str, tuple[int, ...]], *, ignore: int | None = None, write: tuple[int, ...] | None = None
    ) -> LabelScheme:
        return LabelScheme(
            classes=tuple(LabelClass(name=name, values=values) for name, values in classes.items()),
            ignore_value=ignore,
            region_write_values=write,
            declared_count=1 + len(classes) + (ignore is not None),
        )

    return make
