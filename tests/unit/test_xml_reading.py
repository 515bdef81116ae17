"""XML from strangers: entities, sizes and depths that no annotation has."""

from pathlib import Path

import pytest

from autoseg.errors import DocumentError
from autoseg.untrusted import xml_reading
from autoseg.untrusted.xml_reading import read_xml

BOMB = """<?xml version="1.0"?>
<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>
<a>&b;&b;&b;&b;</a>"""
OUTSIDE = '<!DOCTYPE a [<!ENTITY secret SYSTEM "file:///etc/passwd">]><a>&secret;</a>'


def collect(path: Path) -> list[tuple[str, dict[str, str]]]:
    found: list[tuple[str, dict[str, str]]] = []
    read_xml(path, lambda name, attributes: found.append((name, dict(attributes))))
    return found


def write(folder: Path, text: str) -> Path:
    path = folder / "a.xml"
    path.write_text(text, encoding="utf-8")
    return path


def test_elements_are_told_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path, '<a x="1"><b/><c y="&lt;2"/></a>')
    assert collect(path) == [("a", {"x": "1"}), ("b", {}), ("c", {"y": "<2"})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "document type definition"),
        (OUTSIDE, "document type definition"),
        ("<a>" * 100 + "</a>" * 100, "nested in more than 64 levels"),
        ("<a><b></a>", "line 1, column 8: not valid XML: mismatched tag"),
        ("", "not valid XML: no element found"),
        ("<a>&b;</a>", "not valid XML: undefined entity"),
    ],
)
def test_what_no_annotation_holds_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=message):
        collect(write(tmp_path, text))


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_reading, "MOST_XML_BYTES", 10)
    with pytest.raises(DocumentError, match="expected XML of at most"):
        collect(write(tmp_path, "<a>              </a>"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DocumentError, match=r"nowhere\.xml cannot be read: No such file"):
        collect(tmp_path / "nowhere.xml")
