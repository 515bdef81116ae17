import pytest

from planners.rules.batch_size import choose_batch_size
from planners.rules.memory import MemoryBudget

BUDGET = MemoryBudget(elements_per_sample=1000.0, reference_batch_size=2, fitted_batch_size=2)


@pytest.mark.parametrize(
    ("elements", "dataset_voxels", "expected", "sentence"),
    [
        (100, 1e6, 20, "the memory holds 20 samples of 100 feature map elements"),
        (100, 4000, 2, "5 % of the dataset's 4,000 voxels are 2 patches"),
        (100, 15200, 8, "5 % of the dataset's 15,200 voxels are 8 patches"),  # 7.6 rounds up
        (1000, 1e6, 2, "the memory holds 2 samples"),
        (100, 10, 2, "are 0 patches; the smaller number counts, but at least 2"),
        (800, 1e6, 2, "the memory holds 2 samples"),  # 2.5 rounds to even
    ],
)
def test_the_batch_fills_the_memory_within_a_share_of_the_dataset(elements, dataset_voxels, expected, sentence) -> None:
    decision = choose_batch_size(
        (10, 10), elements=elements, budget=BUDGET, dataset_voxel_count=dataset_voxels, dataset_fraction_limit=0.05
    )
    assert decision.value == expected
    assert sentence in decision.because


def test_the_residual_planners_may_show_the_whole_dataset_at_once() -> None:
    decision = choose_batch_size(
        (10, 10), elements=100, budget=BUDGET, dataset_voxel_count=1000, dataset_fraction_limit=1.0
    )
    assert decision.value == 10
    assert "100 % of the dataset's 1,000 voxels are 10 patches" in decision.because
