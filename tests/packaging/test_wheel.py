"""The wheel: what a user installs holds the library and its command, and needs only the dependencies that it names."""

from __future__ import annotations

import ast
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import PathDistribution, distribution, packages_distributions
from pathlib import Path
from zipfile import Path as ZipPath
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import unwedged

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "reference"

MAKE_A_STORE = """
import asyncio
from unwedged.store import TEXT, CryptoStore, RecordKind

DEVICE = RecordKind("device", TEXT, TEXT)

async def main():
    async with await CryptoStore.open("store.db", key=bytes(32), label="the app", kinds=[DEVICE]) as store:
        async with store.transaction() as transaction:
            transaction.put(DEVICE, "phone", "keys")

asyncio.run(main())
"""
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys, unwedged

for module in pkgutil.walk_packages(unwedged.__path__, "unwedged."):
    of_machine = module.name.startswith("unwedged.machine")
    if not module.name.endswith(".__main__") and (not of_machine or "machine" in sys.argv):
        importlib.import_module(module.name)
        print(module.name)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a command says; it must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603  our own
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=REPOSITORY)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> PathDistribution:
    (information,) = (entry for entry in ZipPath(wheel).iterdir() if entry.name.endswith(".dist-info"))
    return PathDistribution(information)


def needed(requirements: list[str] | None, extra: str = "") -> Iterator[str]:
    """The names of what is required, with an extra or without any, and of what that requires in turn."""
    for requirement in map(Requirement, requirements or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield requirement.name
            yield from needed(distribution(requirement.name).requires)


def installed(wheel: Path, metadata: PathDistribution, folder: Path, extra: str = "") -> Path:
    """The programs of a virtual environment with the wheel and its dependencies: these are linked, not downloaded."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"),
        *("--no-index", "--no-deps", wheel),
        cwd=folder,
    )
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    for name in set(needed(metadata.requires, extra)):
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            (packages / top).symlink_to(Path(str(package.locate_file(top))))
    return folder / "bin"


@pytest.fixture(scope="module")
def environment(wheel: Path, metadata: PathDistribution, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(wheel, metadata, tmp_path_factory.mktemp("user") / "environment")


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if ".dist-info/" not in name]
    here = [str(path.relative_to(SOURCES)) for path in SOURCES.rglob("*") if path.suffix == ".py"]
    assert sorted(names) == sorted([*here, "unwedged/py.typed"])
    parts = {Path(name).parts[1] for name in names}
    assert parts == {"__init__.py", "__main__.py", "machine", "protocol", "py.typed", "store", "tools", "trace"}


def test_it_says_what_it_is(metadata: PathDistribution) -> None:
    about = metadata.metadata
    assert (about["Name"], metadata.version, about["Requires-Python"]) == ("unwedged", unwedged.__version__, ">=3.11")
    assert (about["License-Expression"], about["License-File"]) == ("Apache-2.0", "LICENSE")
    assert about.get_all("Provides-Extra") == ["machine", "qr"]
    assert [(entry.name, entry.value) for entry in metadata.entry_points] == [
        ("unwedged", "unwedged.tools.command:main")
    ]


def test_each_import_is_of_a_dependency_or_of_the_standard_library(wheel: Path, metadata: PathDistribution) -> None:
    required = [Requirement(text) for text in metadata.requires or ()]
    direct = {canonicalize_name(one.name) for one in required if one.marker is None}
    extra = {
        canonicalize_name(one.name) for one in required if one.marker and one.marker.evaluate({"extra": "machine"})
    }
    packages = {
        module: set(map(canonicalize_name, provided_by)) for module, provided_by in packages_distributions().items()
    }
    imported = set()
    with ZipFile(wheel) as archive:
        for name in archive.namelist():
            for node in ast.walk(ast.parse(archive.read(name))) if name.endswith(".py") else ():
                if isinstance(node, ast.Import):
                    imported |= {(name, alias.name.partition(".")[0]) for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    imported.add((name, node.module.partition(".")[0]))
    used: set[str] = set()
    for name, module in sorted(imported):
        allowed = direct | extra if name.startswith("unwedged/machine/") else direct
        provided_by = packages.get(module, set())
        assert module in {"unwedged"} | sys.stdlib_module_names or provided_by & allowed, (name, module)
        used |= provided_by
    assert (direct | extra) - used == set()


def test_each_module_is_imported_where_only_the_dependencies_are(environment: Path, tmp_path: Path) -> None:
    modules = run(environment / "python", "-I", "-c", IMPORT_EVERYTHING, cwd=tmp_path).split()
    assert {"unwedged.protocol.lease", "unwedged.store.sqlite", "unwedged.tools.command"} <= set(modules)


def test_the_machine_is_imported_where_its_extra_is(wheel: Path, metadata: PathDistribution, tmp_path: Path) -> None:
    programs = installed(wheel, metadata, tmp_path / "environment", extra="machine")
    modules = run(programs / "python", "-I", "-c", IMPORT_EVERYTHING, "machine", cwd=tmp_path).split()
    assert {"unwedged.store.sqlite", "unwedged.machine.exports"} <= set(modules)


def test_a_user_makes_a_store_and_inspects_it(environment: Path, tmp_path: Path) -> None:
    assert run(environment / "unwedged", "--version", cwd=tmp_path) == f"unwedged {unwedged.__version__}\n"
    run(environment / "python", "-I", "-c", MAKE_A_STORE, cwd=tmp_path)
    shown = run(environment / "unwedged", "inspect", "store.db", cwd=tmp_path)
    assert "records of device" in shown
