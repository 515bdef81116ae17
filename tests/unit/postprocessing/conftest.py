"""Label schemes: plain labels with gaps, nested regions."""

import pytest
from builders.labels import build_labels


@pytest.fixture
def plain():
    """Internal labels 1 (value 5) and 2 (value 9); 3 is to be ignored."""
    return build_labels({"liver": (5,), "tumour": (9,)}, ignore_value=255)


@pytest.fixture
def regions():
    """Nested: the whole (labels 1, 2, 3) around a core (2, 3) around what enhances (3)."""
    return build_labels({"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, region_write_values=(1, 2, 3))
