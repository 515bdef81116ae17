"""The number of PyTorch's threads in tests."""

from collections.abc import Iterator

import torch


def use_one_thread() -> Iterator[None]:
    """A fixture's body: threads cost more than they bring for tensors as small as those of tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
