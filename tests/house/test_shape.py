"""Limits on the shape of the sources; `make shape` prints the figures."""

import pytest
from house import shape

MOST_FILES = 15
MOST_LINES = 400
LONGEST_CHAIN = 22  # networks are made of parts, parts of layers
MOST_BUNDLES = 67


def test_no_folder_but_a_table_holds_more_files_than_a_reader_takes_in() -> None:
    counts = shape.count_files()
    assert len(counts) > 25
    assert {name: count for name, count in counts.items() if count > MOST_FILES and name not in shape.TABLES} == {}


def test_no_file_is_longer_than_a_reader_takes_in() -> None:
    lines = shape.count_lines()
    assert len(lines) > 300
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_chains_of_imports_are_short() -> None:
    chain = shape.find_longest_chain()
    assert 10 < len(chain) <= LONGEST_CHAIN, " > ".join(chain)


def test_no_two_packages_import_each_other() -> None:
    assert shape.find_mutual_imports() == []


def test_a_module_of_one_small_function_is_a_row_of_a_table() -> None:
    assert shape.find_small_modules() == []


def test_different_classes_have_different_names() -> None:
    assert shape.find_repeated_classes() == {}


def test_bundles_do_not_multiply() -> None:
    dataclasses = shape.list_dataclasses()
    assert len(dataclasses) > 100
    assert sum(dataclasses.values()) <= MOST_BUNDLES


@pytest.mark.parametrize("table", shape.TABLES)
def test_a_table_is_a_folder_with_files(table: str) -> None:
    assert shape.count_files()[table] > 0


def test_the_readme_fits_on_a_few_screens() -> None:
    assert len((shape.ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
