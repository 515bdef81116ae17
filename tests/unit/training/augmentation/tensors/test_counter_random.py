import numpy as np
import pytest
import torch
from scipy import stats

from autoseg.training.augmentation.tensors.counter_random import compute_philox, draw_normal

ALL_ONES = 2**32 - 1
# Published with the generator (Random123, kat_vectors).
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL_ONES,) * 4, (ALL_ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def make_keys(count, device="cpu", seed=0):
    words = np.random.default_rng(seed).integers(0, 2**32, size=(count, 4))
    return torch.from_numpy(words).to(device)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_the_generator_gives_the_published_words(counter, key, words, device):
    def to_tensors(values):
        return tuple(torch.tensor([value], device=device) for value in values)

    assert tuple(word.item() for word in compute_philox(to_tensors(counter), to_tensors(key))) == words


def test_the_numbers_are_standard_normal(device):
    drawn = draw_normal(make_keys(4, device), 200_001)
    assert (drawn.shape, drawn.dtype) == ((4, 200_001), torch.float32)
    values = drawn.cpu().numpy().ravel().astype(np.float64)
    assert stats.kstest(values, "norm").pvalue > 0.001
    assert values.mean() == pytest.approx(0, abs=0.004)
    assert values.std() == pytest.approx(1, abs=0.004)
    assert stats.kurtosis(values) == pytest.approx(0, abs=0.02)
    assert 4 < np.abs(values).max() < 7


def test_neighbours_the_numbers_of_one_block_and_other_keys_are_uncorrelated(device):
    count = 100_000
    drawn = draw_normal(make_keys(2, device), count).cpu().numpy().astype(np.float64)
    limit = 4 / np.sqrt(count / 2)
    for lag in (1, 2, 64, count // 4, count // 2, 3 * count // 4):
        first, second = drawn[0, :-lag], drawn[0, lag:]
        assert abs(np.corrcoef(first, second)[0, 1]) < limit * (2 if lag > count // 2 else 1)
        assert abs(np.corrcoef(first**2, second**2)[0, 1]) < limit * (2 if lag > count // 2 else 1)
    assert abs(np.corrcoef(drawn)[0, 1]) < limit


def test_keys_that_differ_in_one_word_give_other_numbers():
    key = make_keys(1)
    fields = [draw_normal(key ^ torch.nn.functional.one_hot(torch.tensor([word]), 4), 1000) for word in range(4)]
    values = torch.cat([draw_normal(key, 1000), *fields]).numpy()
    assert np.abs(np.corrcoef(values) - np.eye(5)).max() < 0.13


def test_a_field_depends_on_its_key_alone(device):
    keys = make_keys(5, device)
    together = draw_normal(keys, 1001)
    assert torch.equal(together, draw_normal(keys, 1001))
    for number in range(5):
        assert torch.equal(together[number], draw_normal(keys[number : number + 1], 1001)[0])


def test_all_devices_give_the_same_field(device):
    fields = [draw_normal(make_keys(2, place), 10_001).cpu() for place in (device, "cpu")]
    assert torch.allclose(*fields, atol=1e-5)
