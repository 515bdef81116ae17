"""Writes a page: one HTML file with everything in it, whose texts are escaped."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeGuard

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autoseg.report.blocks import Block, Gallery, Section, Table
from autoseg.report.viewer import MISSING, read_license, read_viewer
from autoseg.report.volumes import ERRORS
from autoseg.run_folder import write_text

MOST_PAGE_BYTES: Final = 8 * 2**20
"""Size that a page stays below, so that it can be sent by mail; a quarter is left for charts and tables."""
MOST_VOLUME_BYTES: Final = 3 * 2**20  # 4 MiB as text
MOST_PICTURE_BYTES: Final = 2**20
MOST_ROW_BYTES: Final = 3 * 2**19
"""Most bytes of rows of cases, and of the details of these, in a page that would be too large: some thousand cases."""
FEWEST_ROWS: Final = 100
DIGEST_NAME: Final = "autoseg-content"
DIGEST_MARK: Final = f'<meta name="{DIGEST_NAME}" content="'


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownCase:
    """A case that a click on a row shows.

    Attributes:
        key: Name that no other case of the page has.
        name: Name of the case.
        note: A word on why it is shown; empty for most.
        details: Scores, volumes and the like, by name.
        pictures: Captions and data URIs of its slices.
        volumes: Compressed NIfTI files of its image (by the name "image") and of its label maps.
        command: Command that shows it in more detail.
    """

    key: str
    name: str
    note: str = ""
    details: Sequence[tuple[str, str]] = ()
    pictures: Sequence[tuple[str, str]] = ()
    volumes: Mapping[str, bytes] = field(default_factory=dict)
    command: str = ""

    def describe(self) -> dict[str, Any]:
        """Returns what the script of the page must know of it."""
        layers = [name for name in self.volumes if name != "image"]
        return {
            "name": self.name,
            "note": self.note,
            "details": list(self.details),
            "layers": [{"name": name, "isError": name == ERRORS} for name in layers],
            "hasImage": "image" in self.volumes,
            "command": self.command,
        }

    def list_texts(self) -> list[tuple[str, str]]:
        """Lists the volumes as text, by name."""
        return [(name, base64.b64encode(content).decode()) for name, content in self.volumes.items()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The content of a page.

    Attributes:
        title: Heading.
        subtitle: Line below the heading.
        sections: Parts of the page, in their order.
        cases: Cases that can be shown.
        label_names: Names of the labels 1, 2, ...
        colours: Colours of these labels.
        error_colours: Names and colours of the kinds of error.
        digest: Digest of everything that the page was made from.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    cases: Sequence[ShownCase] = ()
    label_names: Sequence[str] = ()
    colours: Sequence[tuple[int, int, int]] = ()
    error_colours: Sequence[tuple[str, tuple[int, int, int]]] = ()
    digest: str = ""

    def render(self) -> str:
        """Renders the page as HTML; the same content gives the same text, but for the date."""
        date = datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
        has_volumes = any(case.volumes for case in self.cases)
        viewer = read_viewer() if has_volumes else None
        content = {
            "cases": [case.describe() for case in self.cases],
            "labels": [
                {"name": name, "colour": colour} for name, colour in zip(self.label_names, self.colours, strict=True)
            ],
            "errors": [{"name": name, "colour": colour} for name, colour in self.error_colours],
        }
        template = build_environment().get_template("page.html.j2")
        return template.render(
            page=self,
            date=date,
            digest_name=DIGEST_NAME,
            data=dump_json(content),
            viewer=None if viewer is None else Markup(viewer),
            viewer_license=Markup(read_license().replace("--", "- -")),
            missing_viewer=MISSING if has_volumes and viewer is None else "",
            places={case.key: index for index, case in enumerate(self.cases)},
        )

    def drop_volumes(self) -> "Page":
        """Returns the page without the volumes of half of the cases that have some, the last ones."""
        places = [place for place, case in enumerate(self.cases) if case.volumes]
        dropped = places[len(places) // 2 :]
        cases = [replace(case, volumes={}) if place in dropped else case for place, case in enumerate(self.cases)]
        return replace(self, cases=cases)

    @property
    def row_count(self) -> int:
        """Returns the number of rows of the longest table of cases."""
        return max((len(table.rows) for table in self._list_case_tables()), default=0)

    @property
    def volume_bytes(self) -> int:
        """Returns what the volumes take as text."""
        return sum(len(text) for case in self.cases for _, text in case.list_texts())

    def shorten(self, count: int) -> "Page":
        """Returns the page with the first rows of every table of cases, and without the cases that no row shows."""
        sections = [
            replace(
                section, blocks=[block.shorten(count) if _is_of_cases(block) else block for block in section.blocks]
            )
            for section in self.sections
        ]
        page = replace(self, sections=sections)
        galleries = (block for section in sections for block in section.blocks if isinstance(block, Gallery))
        shown = {key for table in page._list_case_tables() for key in table.cases}
        shown |= {key for gallery in galleries for key, _ in gallery.cases}
        return replace(page, cases=[case for case in self.cases if case.key in shown])

    def _list_case_tables(self) -> list[Table]:
        return [block for section in self.sections for block in section.blocks if _is_of_cases(block)]

    def write(self, path: Path) -> int:
        """Writes the page atomically and returns its size in bytes.

        Where it would be too large, the last rows of tables of cases are left out if they take more than their part,
        then volumes, then further rows.

        Raises:
            RunError: The folder cannot be written.
        """
        text = self.render()
        size = len(text.encode())
        smaller = self._shrink(size) if size > MOST_PAGE_BYTES else None
        if smaller is not None:
            return smaller.write(path)
        write_text(path, text)
        return size

    def _shrink(self, size_bytes: int) -> "Page | None":
        """Returns a smaller page; None if there is nothing to leave out."""
        count = self.row_count
        rest = self.shorten(0)
        row_bytes = size_bytes - self.volume_bytes - (len(rest.render().encode()) - rest.volume_bytes)
        if row_bytes > MOST_ROW_BYTES and count > FEWEST_ROWS:
            return self.shorten(max(FEWEST_ROWS, count * MOST_ROW_BYTES // row_bytes))
        if any(case.volumes for case in self.cases):
            return self.drop_volumes()
        return self.shorten(max(FEWEST_ROWS, count // 2)) if count > FEWEST_ROWS else None


def _is_of_cases(block: Block) -> TypeGuard[Table]:
    return isinstance(block, Table) and bool(block.cases)


def build_environment() -> Environment:
    """Builds the environment of the templates, which escapes every text."""
    return Environment(
        loader=PackageLoader("autoseg.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def dump_json(content: Any) -> Markup:
    """Writes JSON that can stand inside a script element: nothing in it ends the element or begins a comment."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def read_digest(path: Path) -> str:
    """Reads the digest of a page that was written earlier; empty if there is none."""
    _, _, rest = _read_head(path).partition(DIGEST_MARK)
    return rest.partition('"')[0]


def is_page(path: Path) -> bool:
    """Returns whether a file is a page that was written earlier, with a digest or without."""
    return DIGEST_MARK in _read_head(path)


def _read_head(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        return lines.read(2**12)
