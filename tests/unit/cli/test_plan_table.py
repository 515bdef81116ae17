import io
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Literal

import pytest
from builders.plans import build_network_plan
from rich.console import Console as RichConsole

from autoseg.cli.terminal.console import Console
from autoseg.cli.terminal.reports import print_plan
from autoseg.plan import NetworkPlan


class DeepPlan(NetworkPlan):
    family: Literal["deep"] = "deep"

    @property
    def patch_divisors(self) -> tuple[int, ...]:
        return (1, 1)

    def describe(self) -> Mapping[str, str]:
        return {"depth": "7", "features": "64"}


@pytest.fixture
def plan():
    unet = build_network_plan(
        2,
        features_per_stage=(4, 8, 8, 8),
        kernel_sizes=((3, 3), (3, 1), (3, 3), (3, 3)),
        strides=((1, 1), (2, 1), (2, 2), (2, 2)),
    )
    configurations = {
        name: SimpleNamespace(
            spacing_mm=(1.0, 1.0),
            median_shape_voxels=(8.0, 8.0),
            patch_voxels=(8, 8),
            training=SimpleNamespace(batch_size=2),
            network=network,
        )
        for name, network in (("a", unet), ("b", DeepPlan(dimensions=2, input_channels=1, output_channels=2)))
    }
    return SimpleNamespace(dataset_name="x", planner="y", reasons=(), distance_unit="mm", configurations=configurations)


def test_families_are_described_side_by_side_in_their_own_words(plan):
    output = io.StringIO()
    print_plan(Console(RichConsole(file=output, width=160)), plan)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in output.getvalue().splitlines()]
    shown = ("network", "features", "strides", "kernels", "depth", "trained outputs")
    assert [row for row in rows if row and row[0] in shown] == [
        ["network", "plain_unet", "deep"],
        ["features", "4 8 8 8", "64"],
        ["strides", "1x1 2x1 2x2 2x2", ""],
        ["kernels", "3x3 3x1 3x3 3x3", ""],
        ["depth", "", "7"],
        ["trained outputs", "2", "1"],
    ]
