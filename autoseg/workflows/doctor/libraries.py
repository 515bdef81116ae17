"""Checks of Python and of library versions: against the requirements, the tested versions and known problems."""

import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distributions, metadata, requires
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from autoseg.document import Part
from autoseg.errors import shorten_names
from autoseg.workflows.doctor.finding import Finding
from autoseg.workflows.doctor.known_problems import KNOWN_PROBLEMS, TESTED, KnownProblem

PYTHON_CLASSIFIER: Final = "Programming Language :: Python :: "
SLURM_LIBRARY: Final = "submitit"


class LibraryFacts(Part):
    """Installed software.

    Attributes:
        tested_pythons: Versions of Python that the package names.
        requirements: Requirements of autoseg, as its metadata writes them.
        versions: Versions of all installed packages by their normalized names.
        platform: Name of the operating system, as `sys.platform`.
        has_slurm: Whether jobs of Slurm can be submitted here.
    """

    python: str
    is_64_bit: bool
    tested_pythons: tuple[str, ...]
    required_python: str
    requirements: tuple[str, ...]
    versions: Mapping[str, str]
    platform: str
    has_slurm: bool = False


def measure_libraries(folder: Path) -> LibraryFacts:
    """Reads the installed versions from the metadata of packages, without importing them."""
    del folder
    classifiers: list[str] = []
    required = ""
    wanted: list[str] = []
    try:
        description = metadata("autoseg")
        classifiers, required = description.get_all("Classifier") or [], description["Requires-Python"] or ""
        wanted = [text for text in requires("autoseg") or () if Requirement(text).marker is None]
    except PackageNotFoundError:  # run from its sources
        pass
    return LibraryFacts(
        python=platform.python_version(),
        is_64_bit=sys.maxsize > 2**32,
        tested_pythons=tuple(
            text.removeprefix(PYTHON_CLASSIFIER) for text in classifiers if text.startswith(PYTHON_CLASSIFIER)
        ),
        required_python=required,
        requirements=tuple(wanted),
        versions={normalize_name(entry.name): entry.version for entry in distributions() if entry.name},
        platform=sys.platform,
        has_slurm=shutil.which("sbatch") is not None,
    )


def normalize_name(name: str) -> str:
    """Normalizes the name of a package: lower case, with hyphens."""
    return name.lower().replace("_", "-").replace(".", "-")


def check_python(libraries: LibraryFacts) -> Iterator[Finding]:
    """Checks the version of Python."""
    found = f"{libraries.python} ({'64' if libraries.is_64_bit else '32'} bits)"
    tested = ", ".join(libraries.tested_pythons)
    if libraries.required_python and not _is_in(libraries.python, SpecifierSet(libraries.required_python)):
        meaning, remedy = f"autoseg needs Python {libraries.required_python}", "install a newer Python"
        yield Finding(state="will fail", subject="Python", found=found, meaning=meaning, remedy=remedy)
    elif not libraries.is_64_bit:
        meaning, remedy = "an array may not be larger than 2 GB", "install a Python of 64 bits"
        yield Finding(state="will fail", subject="Python", found=found, meaning=meaning, remedy=remedy)
    elif tested and ".".join(libraries.python.split(".")[:2]) not in libraries.tested_pythons:
        meaning = f"not tested: autoseg is tested with {tested}; libraries may lack builds for other versions"
        remedy = f"in case of errors that name a library, take Python {libraries.tested_pythons[-1]}"
        yield Finding(state="warning", subject="Python", found=found, meaning=meaning, remedy=remedy)
    else:
        yield Finding(state="ok", subject="Python", found=found)


def check_requirements(libraries: LibraryFacts) -> Iterator[Finding]:
    """Checks that every required library is installed in a version that autoseg allows."""
    for text in libraries.requirements:
        requirement = Requirement(text)
        version = libraries.versions.get(normalize_name(requirement.name))
        if version is not None and _is_in(version, requirement.specifier):
            continue
        yield Finding(
            state="will fail",
            subject="libraries",
            found=f"{requirement.name} {version or 'is not installed'}",
            meaning=f"autoseg needs {requirement.name}{requirement.specifier}; another package may have changed it",
            remedy=f'pip install "{requirement.name}{requirement.specifier}"',
        )


def check_tested_versions(libraries: LibraryFacts) -> Iterator[Finding]:
    """Names the libraries that are installed in other versions than the tested ones."""
    versions = {name: libraries.versions.get(normalize_name(name)) for name in TESTED}
    others = [
        f"{name} {found} (tested {TESTED[name]})"
        for name, found in versions.items()
        if found is not None and not _is_in(found, SpecifierSet(f"=={TESTED[name]}"))
    ]
    if not others:
        yield Finding(state="ok", subject="libraries", found=f"all {len(TESTED)} in the tested versions")
        return
    yield Finding(
        state="ok",
        subject="libraries",
        found=f"{len(others)} of {len(TESTED)} in other versions than tested: {shorten_names(others)}",
        meaning="allowed, but not tried; results may differ in the last digits",
        remedy="if something is odd, install the tested versions: pip install -c constraints.txt autoseg",
    )


def check_cluster(libraries: LibraryFacts) -> Iterator[Finding]:
    """Checks that folds can be trained as jobs, where there is a Slurm."""
    version = libraries.versions.get(SLURM_LIBRARY)
    if libraries.has_slurm and version is None:
        yield Finding(
            state="warning",
            subject="cluster",
            found=f"there is a Slurm, and {SLURM_LIBRARY} is not installed",
            meaning="autoseg train --on slurm submits no jobs",
            remedy="pip install 'autoseg[slurm]'",
        )
    elif libraries.has_slurm:
        yield Finding(state="ok", subject="cluster", found=f"Slurm, with {SLURM_LIBRARY} {version}")


def check_known_problems(
    libraries: LibraryFacts, known: tuple[KnownProblem, ...] = KNOWN_PROBLEMS
) -> Iterator[Finding]:
    """Names combinations of versions that are known to go wrong."""
    for problem in known:
        found = find_problem(problem, libraries)
        if found is not None:
            yield Finding(
                state=problem.state,
                subject="libraries",
                found=found,
                meaning=problem.meaning,
                remedy=problem.remedy,
                source=problem.source,
            )


def find_problem(problem: KnownProblem, libraries: LibraryFacts) -> str | None:
    """Finds the versions that are a known problem together; None if they are not all there."""
    versions = {**libraries.versions, "python": libraries.python}
    if problem.platform and not libraries.platform.startswith(problem.platform):
        return None
    parts = []
    for names, specifier in problem.versions.items():
        present = [(name, versions[name]) for name in names.split("|") if name in versions]
        matching = [
            f"{name} {version}" for name, version in present if _is_in(version, SpecifierSet(specifier), unknown=False)
        ]
        if not matching:
            return None
        parts.append(matching[0])
    return " with ".join(parts)


def _is_in(version: str, specifier: SpecifierSet, *, unknown: bool = True) -> bool:
    """Returns whether a version is in a range, and `unknown` for that of a private build, which has no order."""
    try:
        return specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return unknown
