import random

import numpy as np

from autoseg.training.data.randomness import BatchKey, derive_seeds, seeded_global_generators

KEY = BatchKey(stream="training", epoch=3, iteration=7)


def draw(seed, key, index):
    with seeded_global_generators(derive_seeds(seed, key, index)):
        return np.random.uniform(), random.random()


def test_the_same_place_gives_the_same_numbers():
    first = draw(1, KEY, 0)
    draw(1, KEY, 1)
    assert draw(1, KEY, 0) == first


def test_every_coordinate_of_the_place_matters():
    places = [
        (1, KEY, 0),
        (2, KEY, 0),
        (1, KEY, 1),
        (1, BatchKey(stream="validation", epoch=3, iteration=7), 0),
        (1, BatchKey(stream="training", epoch=4, iteration=7), 0),
        (1, BatchKey(stream="training", epoch=3, iteration=8), 0),
    ]
    draws = [draw(*place) for place in places]
    assert len({numpy_draw for numpy_draw, _ in draws}) == len({python_draw for _, python_draw in draws}) == 6


def test_the_global_generators_are_left_as_they_were():
    np.random.seed(5)
    random.seed(5)
    expected = (np.random.uniform(), random.random())
    np.random.seed(5)
    random.seed(5)
    draw(1, KEY, 0)
    assert (np.random.uniform(), random.random()) == expected
