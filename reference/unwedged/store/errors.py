"""Every exception the store raises on purpose.

None of them holds a secret. Nothing was written, unless the exception says otherwise.
"""

from __future__ import annotations

import copy
import typing

Failure = typing.TypeVar("Failure", bound=Exception)


class StoreError(Exception):
    """The base of all exceptions that the store raises on purpose."""


class OperationInterrupted(StoreError):
    """An operation could not continue with the snapshot that it began on. Nothing was written: run it again."""


class LeaseLost(OperationInterrupted):
    """The lease is no longer held under the operation's epoch (P4.3)."""


class SnapshotMoved(OperationInterrupted):
    """A view asked for a record that was not cached and that this process changed after the view began (P4.7)."""


class StoreClosed(StoreError):
    """The store object was closed; open the store again."""


class StoreBusy(StoreError):
    """SQLite could not write in time: another process keeps its write lock, perhaps because it was suspended.

    Nothing was written. This is not the lease, which expires: the lock is kept for as long as that process sleeps.
    """


class StorageFailed(StoreError):
    """The operating system refused to read or write the file: the disk is full or failing, or access is denied.

    A commit that ends with it may have been written or not.
    """


class InvalidArgument(StoreError, ValueError):
    """A value that was passed has a type or a content that the store can't use."""


class ForkedStore(StoreError):
    """A store was used in a process that was forked from the one that opened it: open it after forking, or spawn."""


class StoreReplaced(StoreError):
    """The files that are open are no longer those that the store's name leads to; others see what is there instead.

    They were removed or replaced, or this process has read the open file and so dropped its locks. What this object
    commits would be lost, so it commits nothing more: open the store again.
    """


class SeveralNames(StoreError):
    """The store's file has several names (hard links). SQLite would keep a log for each name of the one file."""


class StoreMissing(StoreError):
    """There is no store although one was expected. None was made."""


class StoreExists(StoreError):
    """There is a store already although a new one was expected."""


class AnotherStore(StoreError):
    """The store is not the one that was expected: it has another identity."""


class StoreRolledBack(StoreError):
    """The store is older than it was: a copy was put back. Keys and message indices in it have been used since."""


class WrongPassphrase(StoreError):
    """The passphrase does not open the store key, or the stored copy of that key is damaged: both look the same."""


class WrongKey(StoreError):
    """The key does not open the store key, or the stored copy of the store key is damaged: both look the same."""


class SecretChanged(StoreError):
    """Another process has changed the store's secret since this store object was opened.

    Everything else still works, since the store key is the same. To change the secret, open the store again with the
    current one.
    """


class UnreadableRecord(StoreError):
    """A record can't be read, now or later. It is a ``TamperedRecord`` or a ``MalformedRecord``."""

    record: tuple[str, bytes] | None = None
    """The name of its kind and its encoded key, if an operation asked for this record."""


class TamperedRecord(UnreadableRecord):
    """A row does not authenticate: it was edited, truncated, or moved from another row or another store."""


class UnknownKind(StoreError):
    """A record kind was used that was not declared, or was declared differently, when the store was opened."""


class UnsupportedSchema(StoreError):
    """A newer version of this library has changed the schema, maybe while the file was open here: update it."""


class UnsupportedSQLite(StoreError):
    """The SQLite that this Python has is too old to read a store."""


class NotAStore(StoreError):
    """The file is not a crypto store, or is too damaged to be read."""


class MalformedRecord(UnreadableRecord):
    """A record authenticates but its codec can't read it: another program declares the kind differently."""


class OperationsAbandoned(StoreError):
    """The store was closed or paused, without waiting any longer for operations that did not end.

    Each of them ends with ``StoreClosed``, or ``LeaseLost``, at its next access; none of them writes anything.
    """

    def __init__(self, done: str, operations: tuple[str, ...]) -> None:
        super().__init__(f"the store was {done} while these operations ran: {', '.join(operations)}")
        self.operations = operations
        """Their qualified names."""


class OperationEnded(StoreError):
    """A transaction or view was used after its block was left, or its block was entered or left once more."""


class NestedOperation(StoreError):
    """An operation of a store was begun, or the store closed, paused or resumed, inside of another operation of it.

    Each would wait for the other. To subscribe or to change the secret there is refused too: either may wait for a
    pause that waits for the operation. A task that was made inside of an operation counts as inside until that has
    ended.
    """


def own_copy(failure: Failure) -> Failure:
    """Return a copy of an exception, for one more task that gets it.

    Raising an exception changes it: its traceback and its context say where it was raised. So two tasks must not raise
    the same object. An exception that can't be copied is shared all the same: its class may be the application's.
    """
    try:
        copied = copy.copy(failure)
    except Exception:  # noqa: BLE001 (its class may do anything)
        return failure
    if type(copied) is not type(failure):
        return failure
    copied.args = failure.args  # Its class may have made another message of the first one.
    if (notes := getattr(failure, "__notes__", None)) is not None:
        copied.__notes__ = [*notes]  # so that a note that one of them adds is on one
    copied.__cause__, copied.__context__ = failure.__cause__, failure.__context__
    copied.__suppress_context__ = failure.__suppress_context__
    return copied.with_traceback(failure.__traceback__)
