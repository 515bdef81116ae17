import numpy as np
import pytest
import torch

from autoseg.training.randomness import BatchKey, derive_seeds

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])])
def device(request):
    """Every test that asks for it runs on the processor and, where there is one, on a GPU."""
    return torch.device(request.param)


@pytest.fixture
def list_seeds():
    """Seeds of the first samples of a batch."""

    def make(count, *, first=0, iteration=0, seed=0):
        key = BatchKey(stream="training", epoch=0, iteration=iteration)
        return [derive_seeds(seed, key, index) for index in range(first, first + count)]

    return make


@pytest.fixture
def draw_image():
    """Smooth random images with channels of different means and spreads."""

    def make(shape=(8, 10, 12), *, batch=3, channels=2, seed=1):
        generator = np.random.default_rng(seed)
        image = generator.normal(size=(batch, channels, *shape))
        spread = np.arange(1, channels + 1).reshape(1, -1, *(1,) * len(shape))
        return (image * spread + spread).astype(np.float32)

    return make
