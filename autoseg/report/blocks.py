"""Parts of a page: sections, and the blocks that they consist of; the templates lay them out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

DASH = "-"


@dataclass(frozen=True, slots=True)
class Bounded:
    """A number with the ends of its interval, which are shown behind it."""

    value: int | float
    low: int | float
    high: int | float

    def format(self, kind: str) -> str:
        """Formats it for people."""
        return f"{self.value:{kind}} [{self.low:{kind}}, {self.high:{kind}}]"


Cell = str | float | int | Bounded | None
"""Text, a number, a number with its interval, or nothing (shown as a dash)."""


@dataclass(frozen=True, slots=True)
class Facts:
    """A list of names with their values."""

    entries: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Notes:
    """Remarks, one sentence each; those that begin with "warning: " are set apart."""

    texts: Sequence[str]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Returns the warnings, without the word."""
        return tuple(text.removeprefix("warning: ") for text in self.texts if text.startswith("warning: "))

    @property
    def others(self) -> tuple[str, ...]:
        """Returns the other remarks."""
        return tuple(text for text in self.texts if not text.startswith("warning: "))


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart as SVG, or a picture as a data URI, with what it shows in words."""

    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be sorted by any column.

    Attributes:
        columns: Headings.
        rows: Cells; numbers are sorted as numbers, those with an interval by the number itself.
        cases: Key of the case that each row is about, shown when the row is clicked; empty where rows are about other
            things.
        title: Heading of the table.
        formats: Format of the numbers of a column, by its heading; three decimals elsewhere.
        source: Says where all rows are, if they are not on the page.
        left_out: Number of rows that are not on the page, the last ones.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    cases: Sequence[str] = ()
    title: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    left_out: int = 0

    @property
    def shortage(self) -> str:
        """Says how many rows there are and where all of them stand; empty if the page has all."""
        if not self.left_out:
            return ""
        shown = f"{len(self.rows):,} of {len(self.rows) + self.left_out:,} rows, those to be looked at first"
        return f"{shown}: this page has a limited size{'; ' if self.source else ''}{self.source}"

    def shorten(self, count: int) -> "Table":
        """Returns the table with the first rows alone."""
        left_out = self.left_out + max(0, len(self.rows) - count)
        return replace(self, rows=self.rows[:count], cases=self.cases[:count], left_out=left_out)

    def format_cell(self, column: str, cell: Cell) -> str:
        """Formats a cell for people."""
        if cell is None:
            return DASH
        if isinstance(cell, str):
            return cell
        if isinstance(cell, Bounded):
            return cell.format(self.formats.get(column, ".3f"))
        return format(cell, self.formats.get(column, "d" if isinstance(cell, int) else ".3f"))

    def get_number(self, cell: Cell) -> float | int | str | None:
        """Returns what a cell is sorted by: a number, nothing (""), or None for text, which is sorted as it is."""
        if cell is None:
            return ""
        if isinstance(cell, Bounded):
            return cell.value
        return None if isinstance(cell, str) else cell

    def is_numeric(self, index: int) -> bool:
        """Returns whether a column holds numbers, which are aligned at the right."""
        cells = [row[index] for row in self.rows if row[index] is not None]
        return bool(cells) and all(not isinstance(cell, str) for cell in cells)


@dataclass(frozen=True, slots=True)
class Decisions:
    """Decisions of one subject, each with its value and reason."""

    title: str
    entries: Sequence[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Commands:
    """Lines for a shell."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Gallery:
    """Cases with their pictures, and the viewer of one of them.

    Attributes:
        heading: Heading of the pictures.
        cases: Keys of the cases whose pictures stand on the page, each with a word on why.
    """

    heading: str
    cases: Sequence[tuple[str, str]]


Block = Facts | Notes | Figure | Table | Decisions | Commands | Gallery


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page with a heading.

    Attributes:
        anchor: Name in links to it.
        lead: One sentence below the heading.
    """

    anchor: str
    title: str
    lead: str
    blocks: Sequence[Block]
