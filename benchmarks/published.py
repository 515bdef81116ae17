"""Networks of the literature, as published and as built here: `python -m benchmarks.published`.

Prints the table of docs/architectures.md. Nothing is computed: the networks are built on the meta device.
"""

from collections.abc import Iterator
from math import ceil
from typing import Final

from autoseg.networks.cost import measure_cost
from autoseg.plan.network import NetworkPlan
from planners import ARCHITECTURES
from planners.architectures.architecture import Architecture, PublishedNetwork

HEADINGS: Final = (
    "architecture",
    "published network",
    "source",
    "input",
    "parameters, published",
    "here",
    "multiply-adds, published (G)",
    "here (G)",
)
USUAL_EXTENTS_VOXELS: Final = {2: 256, 3: 96}  # of inputs for which no multiply-adds are published
IN_PAPER: Final = frozenset(
    (
        "u_net_3d",
        "mednext_s",
        "mednext_b",
        "mednext_m",
        "mednext_l",
        "mednext_b_k5",
        "mednext_m_k5",
        "mednext_l_k5",
        "primus_m",
    )
)
"""Architectures whose paper prints the number of parameters of which the table has as many digits."""
OF_DESCRIPTION: Final = frozenset(
    (
        "u_net",
        "u_net_valid",
        "mednext_s_k5",
        "mednext_v2",
        "mednext_v2_wide",
        "seg_res_net",
        "primus_s",
        "primus_b",
        "primus_l",
    )
)
"""Architectures whose numbers were counted here on the description of the paper. All others: on the published code."""
ON_CODE, ON_DESCRIPTION, IN_PRINT = " (a)", " (b)", ""


def main() -> None:
    """Prints a table in Markdown."""
    print(f"| {' | '.join(HEADINGS)} |")
    print("|---" * len(HEADINGS) + "|")
    for row in list_rows():
        print(row)


def list_rows() -> Iterator[str]:
    """Lists the rows of the table, one per published network, and one per architecture without any."""
    for architecture in ARCHITECTURES.values():
        for published in architecture.published:
            yield format_row(architecture, published)
        if not architecture.published:
            yield f"| `{architecture.name}` |  | {architecture.source} |  | none published |  |  |  |"


def format_row(architecture: Architecture, published: PublishedNetwork) -> str:
    """Formats the row of a published network; multiply-adds are of one image."""
    plan = published.plan
    extents = published.extents_voxels or choose_extents(plan)
    cost = measure_cost(plan, extents, 2)  # some normalizations need two samples
    about = f"{plan.dimensions}D, {plan.input_channels} in, {plan.output_channels} out"
    printed = "" if published.multiply_adds is None else f"{published.multiply_adds / 1e9:.2f}"
    cells = [
        f"`{architecture.name}`",
        f"{published.variant}: {about}" if published.variant else about,
        architecture.source,
        " x ".join(map(str, extents)),
        f"{published.parameter_count:,}{find_mark(architecture.name)}",
        f"{cost.parameter_count:,}",
        printed,
        f"{cost.multiply_adds / 2e9:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def choose_extents(plan: NetworkPlan) -> tuple[int, ...]:
    """Chooses the usual extents of an input, rounded up to what the network takes."""
    usual = USUAL_EXTENTS_VOXELS[plan.dimensions]
    return tuple(ceil(usual / divisor) * divisor for divisor in plan.patch_divisors)


def find_mark(name: str) -> str:
    """Finds the mark of numbers that were counted here, on what."""
    if name in IN_PAPER:
        return IN_PRINT
    return ON_DESCRIPTION if name in OF_DESCRIPTION else ON_CODE


if __name__ == "__main__":
    main()
