"""Tensors as small as those of these tests are computed by one thread."""

import pytest
from builders.threads import use_one_thread

_one_thread = pytest.fixture(autouse=True)(use_one_thread)
