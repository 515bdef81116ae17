"""Networks of many plans are built and passed on the meta device."""

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture
def _unchecked_types() -> Iterator[None]:
    """Types are not checked in every layer, which takes a third of the time; tests of single networks do it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
