"""Writes a page: one HTML file with everything in it, whose texts are escaped."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autoseg.report.blocks import Section
from autoseg.report.viewer import MISSING, read_license, read_viewer
from autoseg.report.volumes import ERRORS
from autoseg.run_folder import write_text

MOST_PAGE_BYTES: Final = 8 * 2**20
"""Size that a page stays below, so that it can be sent by mail; a quarter is left for charts and tables."""
MOST_VOLUME_BYTES: Final = 3 * 2**20  # 4 MiB as text
MOST_PICTURE_BYTES: Final = 2**20
DIGEST_NAME: Final = "autoseg-content"


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

    def render(self, *, written: datetime | None = None) -> str:
        """Renders the page as HTML; the same content gives the same text, but for the date."""
        date = (written or datetime.now(tz=UTC)).strftime("%Y-%m-%d %H:%M UTC")
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

    def write(self, path: Path) -> int:
        """Writes the page atomically and returns its size in bytes; drops volumes where it would be too large.

        Raises:
            RunError: The folder cannot be written.
        """
        text = self.render()
        size = len(text.encode())
        if size > MOST_PAGE_BYTES and any(case.volumes for case in self.cases):
            return self.drop_volumes().write(path)
        write_text(path, text)
        return size


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
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as lines:
        head = lines.read(2**12)
    _, _, rest = head.partition(f'<meta name="{DIGEST_NAME}" content="')
    return rest.partition('"')[0]
