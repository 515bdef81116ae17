"""Networks of the literature, as published and as built here: `python -m benchmarks.published`.

Prints the table of docs/architectures.md. Nothing is computed: the networks are built on the meta device.
"""

from collections.abc import Iterator

from autoseg.networks.cost import measure_cost
from planners import ARCHITECTURES
from planners.architectures.architecture import Architecture, PublishedNetwork

HEADING = (
    "| architecture | published network | parameters, published | here | multiply-adds, published (G) | here (G) |\n"
    "|---|---|---|---|---|---|"
)


def main() -> None:
    """Prints a table in Markdown."""
    print(HEADING)
    for row in list_rows():
        print(row)


def list_rows() -> Iterator[str]:
    """Lists the rows of the table, one per published network."""
    for architecture in ARCHITECTURES.values():
        for published in architecture.published:
            yield format_row(architecture, published)


def format_row(architecture: Architecture, published: PublishedNetwork) -> str:
    """Formats the row of a published network; multiply-adds are of one image."""
    plan = published.plan
    extents = published.extents_voxels or tuple(4 * divisor for divisor in plan.patch_divisors)
    cost = measure_cost(plan, extents, 2)  # some normalizations need two samples
    about = f"{plan.dimensions}D, {plan.input_channels} in, {plan.output_channels} out"
    operations = ["", ""]
    if published.multiply_adds is not None:
        operations = [f"{published.multiply_adds / 1e9:.2f}", f"{cost.multiply_adds / 2e9:.2f}"]
    cells = [
        f"`{architecture.name}`",
        f"{published.variant}: {about}" if published.variant else about,
        f"{published.parameter_count:,}",
        f"{cost.parameter_count:,}",
        *operations,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
