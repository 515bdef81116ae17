import numpy as np
import pytest
import torch
from scipy import stats

from autoseg.training.augmentation.tensors import counter_random
from autoseg.training.augmentation.tensors.counter_random import WORD, compute_words, draw_key, draw_normal, join_words

# Of the seed 1234567 (Rosetta Code, "Pseudo-random numbers/Splitmix64"), and of 0 as published with the generator.
KNOWN_ANSWERS = {
    1234567: (
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ),
    0: (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F),
}


def make_keys(count, device="cpu", seed=0):
    generator = np.random.default_rng(seed)
    return torch.from_numpy(join_words(np.stack([draw_key(generator) for _ in range(count)]))).to(device)


def draw_standard(keys, count):
    return draw_normal(keys, count, torch.ones(len(keys), device=keys.device))


@pytest.mark.parametrize("seed", KNOWN_ANSWERS)
def test_the_generator_gives_the_published_words(seed, device):
    words = compute_words(torch.tensor([seed], device=device), len(KNOWN_ANSWERS[seed]))
    assert tuple(word % 2**64 for word in words[0].tolist()) == KNOWN_ANSWERS[seed]


def test_the_numbers_are_standard_normal(device):
    drawn = draw_standard(make_keys(4, device), 200_001)
    assert (drawn.shape, drawn.dtype) == ((4, 200_001), torch.float32)
    values = drawn.cpu().numpy().ravel().astype(np.float64)
    assert stats.kstest(values, "norm").pvalue > 0.001
    assert values.mean() == pytest.approx(0, abs=0.004)
    assert values.std() == pytest.approx(1, abs=0.004)
    assert stats.kurtosis(values) == pytest.approx(0, abs=0.02)
    assert 4 < np.abs(values).max() < 7


def test_neighbours_the_numbers_of_one_block_and_other_keys_are_uncorrelated(device):
    count = 100_000
    drawn = draw_standard(make_keys(2, device), count).cpu().numpy().astype(np.float64)
    limit = 4 / np.sqrt(count / 2)
    for lag in (1, 2, 64, count // 4, count // 2, 3 * count // 4):
        first, second = drawn[0, :-lag], drawn[0, lag:]
        assert abs(np.corrcoef(first, second)[0, 1]) < limit * (2 if lag > count // 2 else 1)
        assert abs(np.corrcoef(first**2, second**2)[0, 1]) < limit * (2 if lag > count // 2 else 1)
    assert abs(np.corrcoef(drawn)[0, 1]) < limit


def test_each_word_of_a_key_matters_and_the_highest_bit_too():
    words = np.asarray([[WORD, 1, 2, 3]])
    changed = [words ^ np.eye(4, dtype=np.int64)[word] * (WORD + 1 >> 1) for word in range(4)]
    joined = {int(join_words(part)[0]) for part in (words, *changed)}
    assert len(joined) == 3  # words are joined two by two
    assert int(join_words(words)[0]) not in {int(join_words(part)[0]) for part in changed}


def test_keys_that_differ_in_one_bit_give_other_numbers():
    key = make_keys(1)
    fields = [draw_standard(key ^ (1 << bit), 1000) for bit in (0, 20, 40, 62)]
    values = torch.cat([draw_standard(key, 1000), *fields]).numpy()
    assert np.abs(np.corrcoef(values) - np.eye(5)).max() < 0.13


def test_every_integer_gives_a_finite_number_and_each_field_has_its_own_spread(monkeypatch, device):
    extremes = torch.tensor([[0, -1, 2**63 - 1, -(2**63), 2**31 - 1, -(2**31)]], device=device)
    monkeypatch.setattr(counter_random, "compute_words", lambda keys, count: extremes)
    numbers = draw_standard(make_keys(1, device), 12)
    assert torch.isfinite(numbers).all()
    assert 5 < numbers.abs().max() < 6
    monkeypatch.undo()
    spreads = draw_normal(make_keys(3, device), 10_000, torch.tensor([0.0, 1.0, 3.0], device=device)).std(1)
    assert spreads.tolist() == pytest.approx([0, 1, 3], rel=0.05)


def test_a_field_depends_on_its_key_alone(device):
    keys = make_keys(5, device)
    together = draw_standard(keys, 1001)
    assert torch.equal(together, draw_standard(keys, 1001))
    for number in range(5):
        assert torch.equal(together[number], draw_standard(keys[number : number + 1], 1001)[0])


def test_all_devices_give_the_same_field(device):
    fields = [draw_standard(make_keys(2, place), 10_001).cpu() for place in (device, "cpu")]
    assert torch.allclose(*fields, atol=1e-5)
