"""Prints the shape of the sources: sizes of files and folders, the longest chain of imports, names that stand twice.

    make shape

The limits that `make check` holds are in `test_shape.py`.
"""

import ast
import functools
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grimp

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGES: Final = ("autoseg", "planners")
SMALL_FUNCTION_LINES: Final = 20
TABLES: Final = (
    "autoseg/cli",
    "autoseg/networks/families",
    "autoseg/plan/network",
    "autoseg/networks/parts/attentions",
    "autoseg/networks/parts/blocks",
    "autoseg/networks/parts/contexts",
    "autoseg/networks/parts/encoders",
    "autoseg/networks/parts/skips",
    "autoseg/plan/network",
    "autoseg/training/augmentation",
    "autoseg/training/losses",
    "autoseg/training/objectives",
    "autoseg/volume_io/formats",
    "planners",
    "planners/architectures",
    "planners/rules",
)
"""Folders of like things, one file each: they may hold many files, and a small one is a row."""
Definition = ast.FunctionDef | ast.ClassDef


@functools.cache
def list_sources() -> tuple[Path, ...]:
    """All modules of both packages."""
    return tuple(sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")))


@functools.cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text(encoding="utf-8"))


def name_module(path: Path) -> str:
    """The dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def count_lines() -> dict[str, int]:
    """Lines of every module."""
    return {name_module(path): len(path.read_text(encoding="utf-8").splitlines()) for path in list_sources()}


def count_files() -> dict[str, int]:
    """Modules of every folder, sub-folders and `__init__` left out."""
    folders = [str(path.parent.relative_to(ROOT)) for path in list_sources() if not path.name.startswith("__")]
    return dict(Counter(folders))


@functools.cache
def build_graph() -> grimp.ImportGraph:
    """Who imports whom; `import autoseg` imports its API when a name of it is first used, which counts for nothing."""
    graph = grimp.build_graph(*PACKAGES)
    graph.remove_import(importer="autoseg", imported="autoseg.api")
    return graph


def find_longest_chain() -> tuple[str, ...]:
    """The longest chain of modules in which each imports the next; a circle counts once."""
    graph = build_graph()
    longest: dict[str, tuple[str, ...]] = {}

    def follow(module: str, above: frozenset[str]) -> tuple[str, ...]:
        if module not in longest:
            inside = above | {module}
            below = [m for m in sorted(graph.find_modules_directly_imported_by(module)) if m not in inside]
            longest[module] = (module, *max((follow(m, inside) for m in below), key=len, default=()))
        return longest[module]

    return max((follow(module, frozenset()) for module in sorted(graph.modules)), key=len)


def find_mutual_imports() -> list[tuple[str, str]]:
    """Pairs of packages (folders, sub-folders included) of which each imports from the other."""
    graph = build_graph()
    packages = {name_module(path) for path in list_sources() if path.name == "__init__.py"} - set(PACKAGES)
    pairs = [(a, b) for a in sorted(packages) for b in sorted(packages) if a < b]
    apart = [(a, b) for a, b in pairs if not a.startswith(f"{b}.") and not b.startswith(f"{a}.")]
    return [(a, b) for a, b in apart if _imports(graph, a, b) and _imports(graph, b, a)]


def find_repeated_classes() -> dict[str, list[str]]:
    """The classes among `find_repeated_names`."""
    classes = {
        node.name for path in list_sources() for node in list_definitions(path) if isinstance(node, ast.ClassDef)
    }
    return {name: modules for name, modules in find_repeated_names().items() if name in classes}


def _imports(graph: grimp.ImportGraph, importer: str, imported: str) -> bool:
    return graph.direct_import_exists(importer=importer, imported=imported, as_packages=True)


def list_definitions(path: Path) -> list[Definition]:
    """Functions and classes at the top level of a module."""
    return [node for node in parse(path).body if isinstance(node, Definition)]


def find_small_modules() -> list[str]:
    """Modules outside tables that hold a single small function, public or not, and little else."""
    return [name_module(path) for path in list_sources() if not _is_row(path) and _is_small(path)]


def _is_row(path: Path) -> bool:
    return path.name.startswith("__") or str(path.parent.relative_to(ROOT)) in TABLES


def _is_small(path: Path) -> bool:
    definitions = list_definitions(path)
    if len(definitions) != 1 or not isinstance(definitions[0], ast.FunctionDef):
        return False
    (only,) = definitions
    others = [node for node in parse(path).body if isinstance(node, ast.Assign | ast.AnnAssign)]
    return (only.end_lineno or 0) - only.lineno < SMALL_FUNCTION_LINES and len(others) < 3


def find_repeated_names() -> dict[str, list[str]]:
    """Public classes and functions whose name stands in several modules, with these modules."""
    places = defaultdict(list)
    for path in list_sources():
        for node in list_definitions(path):
            if not node.name.startswith("_"):
                places[node.name].append(name_module(path))
    return {name: modules for name, modules in sorted(places.items()) if len(modules) > 1}


def list_dataclasses() -> dict[str, bool]:
    """Every dataclass, and whether it may be a mere bundle: it has no method, and one place builds it."""
    calls = Counter(_list_calls())
    found = {}
    for path in list_sources():
        for node in list_definitions(path):
            if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                has_methods = any(isinstance(part, ast.FunctionDef) for part in node.body)
                found[f"{name_module(path)}.{node.name}"] = not has_methods and calls[node.name] <= 1
    return found


def _list_calls() -> Iterator[str]:
    for path in list_sources():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.Call):
                yield ast.unparse(node.func).split(".")[-1]


def main() -> None:
    """Prints all figures."""
    lines, files, chain = count_lines(), count_files(), find_longest_chain()
    dataclasses, small, repeated = list_dataclasses(), find_small_modules(), find_repeated_names()
    print(f"modules                          {len(lines)}, {sum(lines.values())} lines")
    print("largest folders                 ", _name_largest(files))
    print("longest files                   ", _name_largest(lines))
    print(f"longest chain of imports         {len(chain)} modules: {' > '.join(chain)}")
    print(f"packages that import each other  {len(find_mutual_imports())}: {find_mutual_imports()}")
    print(f"modules of one small function    {len(small)}: {', '.join(small)}")
    bundles = sum(dataclasses.values())
    print(f"dataclasses                      {len(dataclasses)}, {bundles} without methods, built in one place")
    print(f"names in several modules         {len(repeated)}: {', '.join(repeated)}")


def _name_largest(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in Counter(counts).most_common(6))


if __name__ == "__main__":
    main()
