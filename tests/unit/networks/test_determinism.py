import os

import pytest
import torch
from builders.labels import build_labels
from torch.nn import functional

from autoseg.plan import CrossEntropyTerm
from autoseg.runtime.device import CUBLAS_VARIABLE, select_kernels
from autoseg.runtime.distributed import WHOLE_BATCH
from autoseg.training.losses.cross_entropy import compute_cross_entropy
from autoseg.training.losses.targets import build_target


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """What is chosen holds for the whole process."""
    monkeypatch.delenv(CUBLAS_VARIABLE, raising=False)
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = before
    os.environ.pop(CUBLAS_VARIABLE, None)


@pytest.mark.parametrize(
    ("device", "deterministic", "is_strict"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_only_a_gpu_is_held_to_kernels_that_repeat_themselves(device, deterministic, is_strict):
    select_kernels(torch.device(device), deterministic=deterministic)
    assert torch.are_deterministic_algorithms_enabled() == is_strict
    assert torch.backends.cudnn.deterministic == is_strict
    assert torch.backends.cudnn.benchmark != is_strict
    assert (CUBLAS_VARIABLE in os.environ) == is_strict


@pytest.mark.parametrize("ignore_label", [None, 2])
def test_the_cross_entropy_is_the_same_with_both_kinds_of_kernels(ignore_label):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 2, 5, 6), generator=generator)
    label_map = torch.randint(0, 2 if ignore_label is None else 3, (2, 5, 6), generator=generator).to(torch.int16)
    labels = build_labels({"lesion": (1,)}, ignore_value=ignore_label)
    arguments = (
        CrossEntropyTerm(weight=1.0),
        logits,
        build_target(label_map, labels, spacing_mm=(1.0,) * (label_map.ndim - 1)),
        WHOLE_BATCH,
    )
    fast = compute_cross_entropy(*arguments)
    torch.use_deterministic_algorithms(True)
    strict = compute_cross_entropy(*arguments)
    torch.testing.assert_close(strict, fast)
    expected = functional.cross_entropy(logits, label_map.long(), ignore_index=-100 if ignore_label is None else 2)
    torch.testing.assert_close(fast, expected)
