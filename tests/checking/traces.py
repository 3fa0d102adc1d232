"""A real trace in which most steps of the store happen, for tests that omit or change parts of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.store.stores import COUNTER, Instance, Recorder, apart, count_up, failing, take_over, workbench
from unwedged.store import LeaseLost, SnapshotMoved, StorageFailed, Transaction, Version, View

Json = dict[str, object]


async def eventful(folder: Path) -> list[Json]:
    """Let two processes take turns with subscribers, views, lost leases, and a truncated change log."""
    recorder = Recorder()
    async with workbench(folder / "store.db") as bench:
        phone = await bench.instance("phone", tracer=recorder)
        extension = await bench.instance("extension", tracer=recorder)
        async with phone.subscribe(COUNTER), extension.subscribe(COUNTER):
            await _take_turns(phone, extension)
            await phone.lock.release_now()
            async with extension.subscribe(COUNTER):
                await take_over(extension)
                await extension.run(count_up)
                bench.expire_lease()
                await take_over(phone)
                await phone.run(count_up)
                async with failing(LeaseLost, extension.transaction()) as transaction:
                    await count_up(transaction)
            phone.gated.late_failures["commit"] = StorageFailed("the disk is gone")
            async with failing(StorageFailed, phone.transaction()) as transaction:
                await count_up(transaction)
            await phone._truncate(Version(10))
            bench.expire_lease()
            await take_over(extension)
            await extension.run(count_up)
            await extension.lock.release_now()
        await take_over(phone)
        await phone.run(count_up)
        await phone.lock.release_now()
        await phone.pause()
    return [dict(line) for line in recorder.lines]


async def _take_turns(phone: Instance, extension: Instance) -> None:
    async def read(view: View) -> int:
        counter = await view.get(COUNTER, "n")
        return len(await view.keys(COUNTER)) + (counter.count if counter else 0)

    async def fail(transaction: Transaction) -> None:
        counter = await transaction.get(COUNTER, "n")
        raise KeyError(counter)

    await take_over(phone)
    await phone.run(count_up)
    async with phone.view() as older:
        await apart(phone.query(read))
        await apart(phone.run(count_up, "m"))
        await older.get(COUNTER, "n")
        await older.get(COUNTER, "k")
    async with failing(SnapshotMoved, phone.view()) as view:
        await apart(phone.run(count_up, "k"))
        await view.keys(COUNTER)
    await phone.lock.renew_now()
    assert not await extension.lock.acquire_now()
    await phone.run(count_up)
    await extension.listen_now()
    await take_over(extension)
    await extension.query(read)
    async with failing(KeyError, extension.transaction()) as transaction:
        await fail(transaction)
    await extension.run(count_up)
    await extension.run(count_up, "m")
    await extension.lock.release_now()
    await phone.listen_now()
    await take_over(phone)
    await phone.query(read)
    await phone.run(count_up)


def written(folder: Path, lines: Sequence[Json], name: str = "trace.ndjson") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
