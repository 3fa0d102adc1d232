"""An encrypted store of records that several processes share, each with its own cache, without losing an update.

::

    COUNTERS = RecordKind("counter", key=TEXT, value=JSON)

    async def count(transaction: Transaction) -> int:
        so_far = await transaction.get(COUNTERS, "visits")
        visits = 1 + (so_far if isinstance(so_far, int) else 0)
        transaction.put(COUNTERS, "visits", visits)
        return visits

    async with CryptoStore.open("bot.db", passphrase="...", label="bot", kinds=[COUNTERS]) as store:
        visits = await store.run(count)  # committed, and run again if another process was faster

        async with store.view() as view:
            again = await view.get(COUNTERS, "visits")
        assert again == visits

        async with store.subscribe(COUNTERS) as changes:
            async for change in changes:  # by whichever process
                ...

``TEXT``, ``BYTES`` and ``JSON`` are codecs, for keys as well as for values. ``CryptoStore.pause`` closes every file
before the process is suspended. An application that keeps ``CryptoStore.mark`` elsewhere notices when an older copy was
put back. ``inspect`` looks at a store without its secret. Every exception that is raised on purpose is a
``StoreError``.

The names in ``__all__`` are the public interface; the modules below are not.
"""

from unwedged.protocol.identifiers import Epoch, InstanceId, Milliseconds, Version
from unwedged.protocol.lease import Lease
from unwedged.protocol.stream import Lagged
from unwedged.store.clock import Clock, Randomness
from unwedged.store.crypto_store import CryptoStore, Kinds, Statistics
from unwedged.store.errors import (
    AnotherStore,
    ForkedStore,
    InvalidArgument,
    LeaseLost,
    MalformedRecord,
    NestedOperation,
    NotAStore,
    OperationEnded,
    OperationInterrupted,
    OperationsAbandoned,
    SecretChanged,
    SeveralNames,
    SnapshotMoved,
    StorageFailed,
    StoreBusy,
    StoreClosed,
    StoreError,
    StoreExists,
    StoreMissing,
    StoreReplaced,
    StoreRolledBack,
    TamperedRecord,
    UnknownKind,
    UnreadableRecord,
    UnsupportedSchema,
    UnsupportedSQLite,
    WrongKey,
    WrongPassphrase,
)
from unwedged.store.expectations import Existence, StoreMark
from unwedged.store.inspection import Inspection, inspect
from unwedged.store.lock import LeaseTimes
from unwedged.store.opening import Opening
from unwedged.store.records import BYTES, JSON, TEXT, Codec, Json, Kind, RecordKind
from unwedged.store.streams import Changed, Subscription
from unwedged.store.transactions import Transaction, View

__all__ = [
    "BYTES",
    "JSON",
    "TEXT",
    "AnotherStore",
    "Changed",
    "Clock",
    "Codec",
    "CryptoStore",
    "Epoch",
    "Existence",
    "ForkedStore",
    "Inspection",
    "InstanceId",
    "InvalidArgument",
    "Json",
    "Kind",
    "Kinds",
    "Lagged",
    "Lease",
    "LeaseLost",
    "LeaseTimes",
    "MalformedRecord",
    "Milliseconds",
    "NestedOperation",
    "NotAStore",
    "Opening",
    "OperationEnded",
    "OperationInterrupted",
    "OperationsAbandoned",
    "Randomness",
    "RecordKind",
    "SecretChanged",
    "SeveralNames",
    "SnapshotMoved",
    "Statistics",
    "StorageFailed",
    "StoreBusy",
    "StoreClosed",
    "StoreError",
    "StoreExists",
    "StoreMark",
    "StoreMissing",
    "StoreReplaced",
    "StoreRolledBack",
    "Subscription",
    "TamperedRecord",
    "Transaction",
    "UnknownKind",
    "UnreadableRecord",
    "UnsupportedSQLite",
    "UnsupportedSchema",
    "Version",
    "View",
    "WrongKey",
    "WrongPassphrase",
    "inspect",
]


def __dir__() -> list[str]:
    return __all__
