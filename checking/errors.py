"""Every exception this package raises on purpose: each says what happened, where, and what to do."""

from __future__ import annotations


class CheckError(Exception):
    """Something that the person at the keyboard can put right; shown without a traceback."""


class JavaMissing(CheckError):
    """There is no Java runtime to run TLC on."""


class JarUnavailable(CheckError):
    """TLC's jar is not in the cache folder and could not be fetched, or the one named is not there."""


class JarAltered(CheckError):
    """TLC's jar is not the one that this project was checked with; it is not used."""


class CheckoutNotFound(CheckError):
    """The command needs the project's specifications, and there are none above the current folder."""


class ManifestInvalid(CheckError):
    """The manifest of models contradicts itself, its format, or the files beside it."""


class UnknownModel(CheckError):
    """No model of that name is in the manifest."""


class UnreadableOutput(CheckError):
    """TLC printed something that can't be read: a value, a state or a graph."""


class TrackRecordInvalid(CheckError):
    """The bugs of the track record contradict their format, or the counterexamples beside them."""
