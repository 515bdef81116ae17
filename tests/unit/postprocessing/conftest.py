"""Label schemes: plain labels with gaps, nested regions."""

import pytest

from autoseg.labels import LabelClass, LabelScheme


def make_scheme(classes, *, ignore=None, write=None):
    return LabelScheme(
        classes=tuple(LabelClass(name=name, values=values) for name, values in classes.items()),
        ignore_value=ignore,
        region_write_values=write,
        declared_count=1 + len(classes) + (ignore is not None),
    )


@pytest.fixture
def plain():
    """Internal labels 1 (value 5) and 2 (value 9); 3 is to be ignored."""
    return make_scheme({"liver": (5,), "tumour": (9,)}, ignore=255)


@pytest.fixture
def regions():
    """Nested: the whole (labels 1, 2, 3) around a core (2, 3) around what enhances (3)."""
    return make_scheme({"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, write=(1, 2, 3))
