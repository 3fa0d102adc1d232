"""The lock: every package that make installs is named in requirements/ with its version and hashes."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).parents[2]
REQUIREMENTS = REPOSITORY / "requirements"
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
LOCKS = ("bench", "browser", "develop", "go", "lock", "mutants", "peers", "site", "synapse")
ALONE = ("browser", "go", "lock", "synapse")
"""Locks that do not bring along what the package itself needs."""


def entries(lock: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Each package of a lock: its requirement, and its options."""
    text = (REQUIREMENTS / f"{lock}.txt").read_text().replace("\\\n", " ")
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *options = re.split(r"\s+(?=--)", line.strip())
            parsed = Requirement(requirement)
            found[canonicalize_name(parsed.name)] = (parsed, options)
    return found


def declared(group: str) -> list[Requirement]:
    """What a dependency group asks for, with the groups that it includes."""
    wanted = []
    for entry in PROJECT["dependency-groups"][group]:
        wanted += [Requirement(entry)] if isinstance(entry, str) else declared(entry["include-group"])
    return wanted


def published() -> list[Requirement]:
    """What the package asks for, with every extra."""
    project = PROJECT["project"]
    return [Requirement(one) for one in sum(project["optional-dependencies"].values(), project["dependencies"])]


@pytest.mark.parametrize("lock", LOCKS)
def test_each_package_has_one_version_and_hashes_and_no_address(lock: str) -> None:
    found = entries(lock)
    assert found
    for name, (requirement, options) in found.items():
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), name
        assert requirement.url is None, name
        assert options, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", option) for option in options), name


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_what_its_group_asks_for(lock: str) -> None:
    found = entries(lock)
    for wanted in declared(lock) + ([] if lock in ALONE else published()):
        name = canonicalize_name(wanted.name)
        assert name in found, f"{wanted} is not locked: make lock"
        (version,) = found[name][0].specifier
        assert version.version in wanted.specifier, f"{wanted} is locked at {version.version}: make lock"


def test_the_benchmarks_add_to_what_development_needs_and_change_none_of_it() -> None:
    bench = {name: str(requirement) for name, (requirement, _) in entries("bench").items()}
    for name, (requirement, _) in entries("develop").items():
        assert bench[name].partition(";")[0] == str(requirement).partition(";")[0]


@pytest.mark.parametrize("lock", ["site", "browser", "mutants"])
def test_what_is_installed_beside_the_benchmarks_changes_none_of_what_they_need(lock: str) -> None:
    bench = {name: str(requirement) for name, (requirement, _) in entries("bench").items()}
    for name, (requirement, _) in entries(lock).items():
        assert bench.get(name, str(requirement)).partition(";")[0] == str(requirement).partition(";")[0]


def test_what_the_browser_needs_from_npm_has_one_version_and_a_hash_and_no_address() -> None:
    wanted = json.loads((REQUIREMENTS / "browser" / "package.json").read_text())["dependencies"]
    root, *packages = json.loads((REQUIREMENTS / "browser" / "package-lock.json").read_text())["packages"].items()
    assert root[1]["dependencies"] == wanted
    locked = {name.removeprefix("node_modules/"): package["version"] for name, package in packages}
    assert wanted.items() <= locked.items()
    for name, package in packages:
        assert re.fullmatch(r"sha512-[\w+/]{86}==", package["integrity"]), name
        assert "resolved" not in package, name


def test_what_comes_from_npm_has_one_version_and_a_hash_and_no_address() -> None:
    wanted = json.loads((REQUIREMENTS / "npm" / "package.json").read_text())["dependencies"]
    root, *packages = json.loads((REQUIREMENTS / "npm" / "package-lock.json").read_text())["packages"].items()
    assert root[1]["dependencies"] == wanted
    assert {name.removeprefix("node_modules/"): package["version"] for name, package in packages} == wanted
    for name, package in packages:
        assert re.fullmatch(r"sha512-[\w+/]{86}==", package["integrity"]), name
        assert "resolved" not in package, name
