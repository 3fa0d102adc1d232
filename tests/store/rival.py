"""A program that competes for the lease of a store, in a process of its own.

It increments a counter again and again, and prints each count after its commit, until its standard input is closed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.store.stores import KEY, KINDS, count_up
from unwedged.store import CryptoStore, StoreBusy


async def run(path: Path) -> None:
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async with CryptoStore.open(path, key=KEY, label="rival", kinds=KINDS) as store:
        while not ended.done():
            try:
                print(await store.run(count_up), flush=True)  # noqa: T201 (the test reads this)
            except StoreBusy:
                continue  # SQLite was busy for too long; nothing was written.


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1])))
