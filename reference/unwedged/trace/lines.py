"""The lines that one process instance writes of its steps, and the pseudonyms in them (T1 to T3).

Every line passes through this module, which replaces each name of a record, session, user or device by a keyed hash.
The processes of one store have the same key, so their lines can be joined. Without the key nobody can try out names.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import blake2b
from itertools import islice
from typing import Final, Protocol, TypeAlias, TypeVar

FORMAT: Final = 1
"""The version of the format, in each line."""

PSEUDONYM_BYTES: Final = 8
MOST_LISTED: Final = 250
"""The most items in a list of a line (T1.6): more would block the event loop."""
_KEPT_PSEUDONYMS: Final = 1024

Field: TypeAlias = "str | int | bool | Sequence[str] | Sequence[int]"
"""What a field of a line may be. A field that has no value is left out."""
Line: TypeAlias = Mapping[str, Field]
"""One step."""

_NO_FIELDS: Final[Line] = {}

ABSENT: Final = "absent"
UNREAD: Final = "unread"
"""What stands for the digest of a value that there is not, or that was not read (T2.5)."""

Name = TypeVar("Name", bound=tuple[str, bytes])
"""The kind and the key of a record."""

logger = logging.getLogger(__name__)


class Tracer(Protocol):
    """A receiver of the lines of a store's steps: a file, a log, a collector of spans."""

    def write(self, line: Line) -> None:
        """Receive one line, in the middle of the store's work: it must not wait for anything (T1.11)."""


class Trace:
    """The lines of one process instance, or of one opening of a store.

    ``key`` is the same in all processes of the ``store``, and secret. ``now`` is the process's clock.
    """

    def __init__(self, tracer: Tracer, key: bytes, store: bytes, instance: int, now: Callable[[], int]) -> None:
        self.lines = 0
        """How many lines were written."""
        self._operations = 0
        self._tracer = tracer
        self._keyed = blake2b(key=key, digest_size=PSEUDONYM_BYTES)
        self._now = now
        self._reported: set[str] = set()
        self._head: dict[str, Field] = {
            "format": FORMAT,
            "store": self.pseudonym("store", store),
            "instance": f"{instance:016x}",
        }
        self._digests: dict[tuple[str, bytes], tuple[bytes | None, str]] = {}
        """The digests of what the last commit wrote: the next commit often begins from it."""
        self.record = lru_cache(_KEPT_PSEUDONYMS)(self._record)
        """Returns a record's kind and the pseudonym of its key (T2.4)."""
        self._value_of = lru_cache(_KEPT_PSEUDONYMS)(partial(self._hashed, "value"))
        """Returns the hash that the digests of a record's values begin with, by the record's name."""

    def __repr__(self) -> str:
        return f"<Trace lines={self.lines}>"

    def note(self, step: str, **fields: Field) -> None:
        """Write one line. If that fails, the store goes on: its work does not depend on its trace (T1.7)."""
        self.write(step, fields)

    def write(self, step: str, fields: dict[str, Field], more: Mapping[str, Field] = _NO_FIELDS) -> None:
        """Like ``note``, with the fields in two parts."""
        self.lines += 1
        try:
            self._tracer.write({**self._head, "line": self.lines, "at_ms": self._now(), "step": step, **fields, **more})
        except (KeyboardInterrupt, SystemExit):  # of a signal, which comes at any moment
            raise
        except BaseException as failure:  # noqa: BLE001 (a tracer is the application's)
            self._note_failure(failure)

    def miss(self, failure: Exception) -> None:
        """Leave one line out, because of a failure."""
        self.lines += 1
        self._note_failure(failure)

    def _note_failure(self, failure: BaseException) -> None:
        """Log one of a kind, however often it comes. The numbers of the lines show what is missing."""
        name = type(failure).__name__
        if name not in self._reported:
            self._reported.add(name)
            with suppress(Exception):  # The log's handlers are the application's too.
                logger.warning("tracing failed: %s", name)

    def next_operation(self) -> int:
        """Return the number of the next operation of this instance."""
        self._operations += 1
        return self._operations

    def pseudonym(self, what: str, *parts: str | bytes) -> str:
        """Return the pseudonym of a name: its keyed BLAKE2b of 8 bytes, in hexadecimal (T2.2)."""
        return self._hashed(what, *parts).hexdigest()

    def _hashed(self, *parts: str | bytes) -> blake2b:
        hashed = self._keyed.copy()
        for part in parts:
            _add(hashed, part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part)
        return hashed

    def records(self, names: Iterable[tuple[str, bytes]]) -> list[str]:
        """Return the list of records for a line."""
        return [self.record(*name) for name in islice(names, MOST_LISTED)]

    def digest(self, record: str, value: bytes | None) -> str:
        """Return the digest of a record's value. It shows only whether two values are equal (T2.5)."""
        if value is None:
            return ABSENT
        hashed = self._value_of(record).copy()
        _add(hashed, value)
        return hashed.hexdigest()

    def written(self, writes: Mapping[Name, bytes | None], known: Mapping[Name, bytes | None]) -> dict[str, Field]:
        """Return the fields that say what a commit writes, and from which values it was computed."""
        records, based_on, made = [], [], []
        digests: dict[tuple[str, bytes], tuple[bytes | None, str]] = {}
        for name, value in islice(writes.items(), MOST_LISTED):
            record, before = self.record(*name), known.get(name, UNREAD)
            last = self._digests.get(name)
            records.append(record)
            if isinstance(before, str):
                based_on.append(before)
            else:
                based_on.append(last[1] if last is not None and last[0] is before else self.digest(record, before))
            made.append(digest := self.digest(record, value))
            digests[name] = value, digest
        self._digests = digests
        return {
            "records": records,
            "based_on": based_on,
            "made": made,
            "unlisted": max(0, len(writes) - MOST_LISTED),
        }

    def _record(self, kind: str, key: bytes) -> str:
        return f"{kind}/{self.pseudonym('record', kind, key)}"


class Remarks:
    """The lines of the layer above the store about an operation, written when it has taken effect (T4.1)."""

    __slots__ = ("_noted", "_trace")

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._noted: list[tuple[str, dict[str, Field]] | Exception] = []

    def later(self, step: str, **fields: Field) -> None:
        """Note one line, to be written when the operation takes effect. It is dropped if the operation is."""
        self._noted.append((step, fields))

    def miss(self, failure: Exception) -> None:
        """Note that one line is missing, because of a failure."""
        self._noted.append(failure)

    def pseudonym(self, what: str, *parts: str | bytes) -> str:
        """See ``Trace.pseudonym``."""
        return self._trace.pseudonym(what, *parts)

    def record(self, kind: str, key: bytes) -> str:
        """See ``Trace.record``."""
        return self._trace.record(kind, key)


class OperationTrace:
    """The lines of one operation of the store (T3.1)."""

    __slots__ = ("_named", "_trace", "remarks", "writes")

    def __init__(self, trace: Trace, mode: str, epoch: int, snapshot: int, began_after: int) -> None:
        self.remarks = Remarks(trace)
        self._trace = trace
        self.writes: dict[str, Field] = {}
        """The fields of ``Trace.written``, for the line of its commit."""
        self._named: dict[str, Field] = {
            "operation": trace.next_operation(),
            "mode": mode,
            "epoch": epoch,
            "snapshot": snapshot,
            "began_after": began_after,
        }

    def note(self, step: str, **fields: Field) -> None:
        """Write one line."""
        self._trace.write(step, self._named, fields)

    def took_effect(self, step: str, fields: Mapping[str, Field]) -> None:
        """Write that the operation has taken effect, and then the lines of the layer above."""
        self._trace.write(step, self._named, fields)
        for noted in self.remarks._noted:  # noqa: SLF001 (out of the reach of the layer above)
            if isinstance(noted, Exception):
                self._trace.miss(noted)
            else:
                self._trace.write(noted[0], {"operation": self._named["operation"]}, noted[1])

    def failed(self, failure: Exception) -> None:
        """Drop the lines of the layer above, since the operation's code has failed."""
        self.remarks._noted.clear()  # noqa: SLF001 (as above)
        self._named["failure"] = type(failure).__name__

    def record(self, kind: str, key: bytes) -> str:
        """See ``Trace.record``."""
        return self._trace.record(kind, key)

    def will_write(self, writes: Mapping[Name, bytes | None], known: Mapping[Name, bytes | None]) -> None:
        """Compute ``writes`` before the commit: after it the processor's caches are cold, and it takes longer."""
        self.writes = self._trace.written(writes, known)


def _add(hashed: blake2b, part: bytes) -> None:
    """Hash one more part of a name, as T2.2 says."""
    hashed.update(b"%d:" % len(part))
    hashed.update(part)
