"""Programs that fork with an open store, or end without closing it: ``python -m tests.store.careless NAME PATH``.

Each program is a function below. A test judges its output and its exit status.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path

from tests.store.worker import COUNTS, count_up, look, open_store, read
from unwedged.protocol.identifiers import Milliseconds
from unwedged.store import CryptoStore, ForkedStore, statements


def say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def after(child: Callable[[], object]) -> int:
    """Fork, run something in the child, and return the child's exit status."""
    process = os.fork()
    if not process:
        try:
            child()
        finally:
            sys.stdout.flush()
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def begins(name: str, work: Coroutine[object, object, object]) -> None:
    """Run the first step of ``work`` without an event loop, and print the outcome."""
    try:
        work.send(None)
    except ForkedStore:
        say(f"{name}: ForkedStore")
    work.close()


# Forks


def uses_it_at_every_entry(path: Path) -> None:
    with asyncio.Runner() as runner:
        store = runner.run(open_store(path))
        runner.run(store.run(count_up))

        def child() -> None:
            begins("run", store.run(count_up))
            begins("query", store.query(read))
            begins("transaction", store.transaction().__aenter__())
            begins("view", store.view().__aenter__())
            begins("subscribe", store.subscribe(COUNTS).__aenter__())
            begins("change_secret", store.change_secret(key=bytes(32)))
            begins("pause", store.pause())
            begins("resume", store.resume())
            begins("close", store.close())
            for name, entry in (("statistics", store.statistics), ("mark", store.mark)):
                try:
                    entry()
                except ForkedStore:
                    say(f"{name}: ForkedStore")

        after(child)
        look(path)  # This deletes the log if the child made this process lose its locks.
        say(runner.run(store.run(count_up)))
        runner.run(store.close())


def uses_it_in_a_loop_of_its_own(path: Path) -> None:
    with asyncio.Runner() as runner:
        store = runner.run(open_store(path))

        def child() -> None:
            for work in (store.run(count_up), store.close(), open_store(path)):
                try:
                    asyncio.run(work)
                except ForkedStore:
                    say("ForkedStore")
            asyncio.run(opens(path.with_name("another")))

        after(child)
        look(path)  # This deletes the log if the child made this process lose its locks.
        say(runner.run(store.run(count_up)))
        runner.run(store.close())


async def opens(path: Path) -> None:
    async with await open_store(path) as store:
        say(await store.run(count_up))


def closed_it_before(path: Path) -> None:
    asyncio.run(opens(path))
    after(lambda: asyncio.run(opens(path)))


def goes_on_inside_an_operation(path: Path) -> None:
    """The child is created inside a block, a coroutine and the event loop."""

    async def update(store: CryptoStore) -> None:
        async with store.subscribe(COUNTS) as subscription, store.transaction() as transaction:
            transaction.put(COUNTS, "n", (await transaction.get(COUNTS, "n") or 0) + 1)
            if ended := forked():
                say(ended)
                return
            read_again = transaction.get(COUNTS, "n")
            begins("get", read_again)
            begins("news", subscription.__anext__())
            say("child goes on")  # it would commit

    in_the_middle(path, update)


def leaves_the_block(path: Path) -> None:
    async def leave(_: CryptoStore) -> None:
        if not (ended := forked()):
            sys.exit(3)
        say(ended)

    in_the_middle(path, leave)


def in_the_middle(path: Path, work: Callable[[CryptoStore], Coroutine[object, object, None]]) -> None:
    """Run work that forks. The child must not close the event loop, since it shares the selector with its parent."""
    process = os.getpid()

    async def main() -> None:
        try:
            async with await open_store(path) as store:
                await store.run(count_up)
                await work(store)
                look(path)  # This deletes the log if the child made this process lose its locks.
                say(await store.run(count_up))
        except BaseException as error:
            if os.getpid() == process:
                raise
            say(f"child: {type(error).__name__}")
            os._exit(7)

    asyncio.run(main())


def forked() -> str:
    """Fork. In the child, return nothing; in the parent, wait for the child and return its exit status."""
    process = os.fork()
    return f"child ended: {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}" if process else ""


# Ends


def raises(path: Path) -> None:
    async def main() -> None:
        store = await open_store(path)
        await store.run(count_up)
        raise ValueError("on purpose")

    asyncio.run(main())


def exits(path: Path) -> None:
    async def main() -> None:
        store = await open_store(path)
        await store.run(count_up)
        sys.exit(5)

    asyncio.run(main())


def returns(path: Path) -> None:
    async def main() -> None:
        store = await open_store(path)
        await store.run(count_up)

    asyncio.run(main())


KEPT: list[object] = []


def keeps_it_in_a_module(path: Path) -> None:
    async def main() -> CryptoStore:
        store = await open_store(path)
        await store.run(count_up)
        return store

    KEPT.append(asyncio.run(main()))


def exits_while_it_commits(path: Path) -> None:
    runner = asyncio.Runner()
    store = runner.run(open_store(path))
    runner.run(store.run(count_up))
    reached = asyncio.Event()

    def stop(began_seconds: float, duration_ms: Milliseconds) -> Milliseconds:  # noqa: ARG001 (it replaces a function)
        runner.get_loop().call_soon_threadsafe(reached.set)
        threading.Event().wait()
        return Milliseconds(0)

    statements.lateness = stop

    async def commit() -> None:
        KEPT.append(asyncio.create_task(store.run(count_up)))
        await reached.wait()

    runner.run(commit())
    KEPT.append(runner)
    sys.exit(6)


if __name__ == "__main__":
    program: Callable[[Path], None] = globals()[sys.argv[1]]
    program(Path(sys.argv[2]))
