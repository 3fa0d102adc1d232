"""The stores that are measured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from unittest.mock import patch

from tests.store.olm import SESSION_CODEC

from unwedged.protocol.identifiers import Milliseconds
from unwedged.store import TEXT, CryptoStore, LeaseTimes, RecordKind, sealing

SESSIONS: Final = RecordKind("olm_session", TEXT, SESSION_CODEC)
WORDS: Final = RecordKind("word", TEXT, TEXT)

_FREE: Final = sealing.Cost(n=2, r=1, p=1)

_STEADY: Final = LeaseTimes(idle_after=Milliseconds(24 * 60 * 60 * 1000))


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[CryptoStore]:
    """Open a store, or make one whose passphrase is derived at no cost: that is measured apart from everything else.

    It keeps the lease while others have their turn.
    """
    with patch.object(sealing, "COST", _FREE):
        store = await CryptoStore.open(
            path, passphrase="secret", label="benchmark", kinds=[SESSIONS, WORDS], times=_STEADY
        )
    async with store:
        yield store
