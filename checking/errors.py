"""The exceptions that this package raises on purpose. Each message says what happened, where, and what to do."""

from __future__ import annotations


class CheckError(Exception):
    """An error that the user can correct. The command line shows it without a traceback."""


class JavaMissing(CheckError):
    """There is no Java runtime to run TLC on."""


class JarUnavailable(CheckError):
    """TLC's jar could not be downloaded, or the file that ``TLA2TOOLS_JAR`` names is missing or is not TLC."""


class JarAltered(CheckError):
    """TLC's jar in the cache folder is not the one that this project was checked with."""


class CheckoutNotFound(CheckError):
    """The current folder is not in a clone of the project, so there are no specifications."""


class ManifestInvalid(CheckError):
    """The manifest of models contradicts itself, its format, or the files in its folder."""


class UnknownModel(CheckError):
    """No model of that name is in the manifest."""


class UnreadableOutput(CheckError):
    """TLC printed a value, a state or a graph that can't be parsed."""


class TrackRecordInvalid(CheckError):
    """The bugs of the track record contradict their format, or the recorded counterexamples."""
