"""Measure the machine: messages, handovers and caches, compared with bare ratchets and with other libraries.

Two groups run in the peers' environment, ``.venv/peers``, so that all subjects are sampled in one process.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import aiosqlite
import msgspec
from vodozemac import (
    Account,
    AnyOlmMessage,
    Curve25519PublicKey,
    GroupSession,
    InboundGroupSession,
    MegolmMessage,
    SessionKey,
)

from bench.correspondents import BOB, CONTENT, KEY, ROOM, Bob, Library, introduced, known, machine, part, text
from bench.machine_peers import matrix_nio, mautrix
from bench.measuring import PEERS_PYTHON, Effort, Group, Results, Target, Timed, each, measure_in_rounds, program, sized
from bench.reporting import Pair, compared, digits, duration, table, targets_of
from bench.stores import settle_logs
from bench.transactions import BARE, PUT
from unwedged.machine import DecryptedEvent, OlmMachine
from unwedged.machine.identifiers import Curve25519Key, JsonObject, PeerName, UserId
from unwedged.machine.ratchets import OlmSession
from unwedged.machine.records import KINDS, PEER, Peer
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.store import Kind, Transaction

MODULE: Final = "bench.machine"

BATCH: Final = 100
"""The number of room messages that are read at once."""
SESSIONS: Final = sized((100, 10_000), (10, 100))
SESSIONS_IN_A_COMMIT: Final = 500

TO_DEVICE: Final = "to-device message"
ENCRYPTED: Final = "room message encrypted"
FIRST: Final = "first reading of a room message"
FIRST_OF_MANY: Final = f"first reading of {BATCH}"
AGAIN: Final = f"reading {BATCH} again"
ARRIVAL: Final = "arrival of a room key"
SHARED: Final = "sharing a room key that all have"
LISTED: Final = "listing what is to be sent"
CACHED_WORKS: Final = (TO_DEVICE, ARRIVAL, ENCRYPTED, FIRST, FIRST_OF_MANY, AGAIN, SHARED, LISTED)
"""The work that is measured without the cache of each kind."""

BARE_STEPS: Final = "bare"
BARE_OPERATION: Final = "bare, with no handover: room message encrypted"
OURS: Final = "unwedged"
NIO: Final = "matrix-nio, synchronous=FULL"
MAUTRIX: Final = "mautrix, synchronous=NORMAL"
MAUTRIX_DURABLE: Final = "mautrix, synchronous=FULL"

Work: TypeAlias = Mapping[str, Timed]
"""The timed functions, by the name of the work."""


def named(library: str, work: str) -> str:
    """Return the name of a subject."""
    return f"{library}: {work}"


async def receive(library: Library, write: Callable[[], JsonObject], loops: int) -> float:
    """Measure the time to receive to-device events, without the time to encrypt them."""
    events = [write() for _ in range(loops)]
    began = time.perf_counter()
    for event in events:
        await library.receive(event)
    return time.perf_counter() - began


async def work_of(library: Library) -> Work:
    """Return the timed functions of a library."""
    again = await library.bob.room_events(BATCH, library.receive)
    await library.read(again)

    async def read(at_once: int, loops: int) -> float:
        events = await library.bob.room_events(at_once * loops, library.receive)
        began = time.perf_counter()
        for start in range(0, len(events), at_once):
            await library.read(events[start : start + at_once])
        return time.perf_counter() - began

    return {
        TO_DEVICE: partial(receive, library, library.bob.dummy),
        ENCRYPTED: each(library.encrypt),
        FIRST: partial(read, 1),
        FIRST_OF_MANY: partial(read, BATCH),
        AGAIN: each(lambda: library.read_again(again)),
    }


@asynccontextmanager
async def bare(folder: Path) -> AsyncIterator[Library]:
    """Set up the baseline: a ratchet step and its pickle, and one bare transaction that writes one row."""
    bob, account, outbound = Bob(), Account(), GroupSession()
    account.generate_one_time_keys(1)
    [one_time_key] = account.one_time_keys.values()
    own_key = account.curve25519_key.to_base64()
    greeting = bob.greet(known(own_key, account.ed25519_key.to_base64()), one_time_key.to_base64())
    opening = AnyOlmMessage.from_parts(0, unpadded(body_of(greeting, own_key))).to_pre_key()
    assert opening is not None
    session, _ = account.create_inbound_session(Curve25519PublicKey.from_base64(bob.curve25519), opening)
    kind, reply = session.encrypt(b"hello").to_parts()
    bob.hear(kind, to_unpadded(reply))
    inbound: dict[str, InboundGroupSession] = {}

    async with aiosqlite.connect(folder / "bare.db", isolation_level=None) as driver:
        for statement in BARE:
            await driver.execute(statement)

        async def put(key: str, value: bytes) -> None:
            await driver.execute("BEGIN IMMEDIATE")
            await driver.execute(PUT, (key, value))
            await driver.commit()

        async def receive(event: JsonObject) -> None:
            plaintext = session.decrypt(AnyOlmMessage.from_parts(1, unpadded(body_of(event, own_key))))
            if b"m.room_key" in plaintext:
                content = part(msgspec.json.decode(plaintext), "content")
                key = InboundGroupSession(SessionKey(text(content, "session_key")))
                inbound[text(content, "session_id")] = key
            await put("session", session.pickle(KEY).encode())

        async def encrypt() -> object:
            message = outbound.encrypt(msgspec.json.encode(CONTENT))
            await put("room", outbound.pickle(KEY).encode())
            return message.to_base64()

        async def read_again(events: Sequence[JsonObject]) -> object:
            return [
                inbound[text(event, "content", "session_id")].decrypt(
                    MegolmMessage.from_base64(text(event, "content", "ciphertext"))
                )
                for event in events
            ]

        async def read(events: Sequence[JsonObject]) -> object:
            decrypted = await read_again(events)
            await put("readings", "".join(text(event, "event_id") for event in events).encode())
            return decrypted

        yield Library(bob, receive, encrypt, read, read_again)


def body_of(event: JsonObject, own_key: str) -> str:
    """Return Alice's ciphertext in a to-device event."""
    return text(event, "content", "ciphertext", own_key, "body")


async def encrypting(own: OlmMachine) -> Callable[[], Awaitable[object]]:
    """Return a function that encrypts the same room message each time."""
    shared = await own.share_room_key(ROOM, [BOB.user_id])
    return lambda: own.encrypt_room_event(ROOM, shared, "m.room.message", CONTENT)


@asynccontextmanager
async def ours(path: Path) -> AsyncIterator[tuple[OlmMachine, Library]]:
    """Open a machine, and return it with its library."""
    bob = Bob()
    async with machine(path) as own:
        syncing = await introduced(own, bob)

        async def read(events: Sequence[JsonObject]) -> object:
            read = await own.decrypt_room_events(ROOM, events)
            assert all(isinstance(event, DecryptedEvent) for event in read)
            return read

        yield own, Library(bob, syncing.receive, await encrypting(own), read, read)


@asynccontextmanager
async def messages(folder: Path) -> AsyncIterator[Work]:
    """Set up the messages of all libraries."""
    async with (
        bare(folder) as least,
        ours(folder / "ours.db") as (_, library),
        matrix_nio(folder) as nio,
        mautrix(folder, "NORMAL") as relaxed,
        mautrix(folder, "FULL") as durable,
    ):
        libraries = {BARE_STEPS: least, OURS: library, NIO: nio, MAUTRIX: relaxed, MAUTRIX_DURABLE: durable}
        works = {name: await work_of(each) for name, each in libraries.items()}
        settle_logs(folder)
        yield {named(name, work): timed for name, timed_of in works.items() for work, timed in timed_of.items()}


@asynccontextmanager
async def handover(folder: Path) -> AsyncIterator[Work]:
    """Set up handovers: two processes alternately encrypt a room message, in stores with few and with many sessions."""
    async with AsyncExitStack() as stack:
        subjects: dict[str, Timed] = {}
        for sessions in SESSIONS:
            path = folder / f"{sessions}.db"
            first, _ = await stack.enter_async_context(ours(path))
            await fill(first, sessions)
            await first._store._lock.release_now()
            second = await stack.enter_async_context(machine(path))
            encrypt = await encrypting(second)
            await encrypt()
            await second._store._lock.release_now()
            subjects[with_sessions(sessions)] = partial(handed_over, first, second)
        least = await stack.enter_async_context(bare(folder))
        settle_logs(folder)
        yield {**subjects, BARE_OPERATION: each(least.encrypt)}


def with_sessions(count: int) -> str:
    """Return the name of a subject."""
    return f"handover and a room message, {count:,} Olm sessions"


def _peer(number: int) -> PeerName:
    return PeerName(UserId("@peer:example.org"), Curve25519Key(f"{number:043}"))


async def fill(own: OlmMachine, sessions: int) -> None:
    """Store used Olm sessions with so many devices."""

    async def copy(transaction: Transaction, start: int) -> None:
        [key] = await transaction.keys(PEER) if start == 0 else [_peer(0)]
        peer = await transaction.get(PEER, key)
        assert peer is not None
        for number in range(start, min(start + SESSIONS_IN_A_COMMIT, sessions)):
            copied = Peer([OlmSession.from_pickle(session.pickle()) for session in peer.sessions], 1, peer.digests)
            transaction.put(PEER, _peer(number), copied)

    for start in range(0, sessions, SESSIONS_IN_A_COMMIT):
        await own._store.run(copy, start)


async def handed_over(first: OlmMachine, second: OlmMachine, loops: int) -> float:
    """Measure the time in which ``first`` acquires the lease and encrypts, after ``second`` has released it."""
    seconds = 0.0
    there, here = await encrypting(second), await encrypting(first)
    await first._store._lock.release_now()
    for _ in range(loops):
        await there()
        await second._store._lock.release_now()
        began = time.perf_counter()
        await here()
        seconds += time.perf_counter() - began
        await first._store._lock.release_now()
    return seconds


@asynccontextmanager
async def caches(folder: Path) -> AsyncIterator[Work]:
    """Set up each work with all kinds cached, and with one of its kinds not cached."""
    async with ours(folder / "ours.db") as (own, library):
        bob = library.bob
        works: dict[str, Timed] = {
            **await work_of(library),
            ARRIVAL: partial(receive, library, bob.room_key),
            SHARED: each(lambda: own.share_room_key(ROOM, [BOB.user_id])),
            LISTED: each(own.outgoing_requests),
        }
        one, *more = await bob.room_events(1 + BATCH, library.receive)
        once: dict[str, Callable[[], Awaitable[object]]] = {
            TO_DEVICE: lambda: library.receive(bob.dummy()),
            ENCRYPTED: library.encrypt,
            FIRST: lambda: library.read([one]),
            FIRST_OF_MANY: lambda: library.read(more),
            AGAIN: lambda: library.read_again(more),
            ARRIVAL: lambda: library.receive(bob.room_key()),
            SHARED: lambda: own.share_room_key(ROOM, [BOB.user_id]),
            LISTED: own.outgoing_requests,
        }
        settle_logs(folder)
        subjects: dict[str, Timed] = {}
        for work, timed in works.items():
            subjects[all_cached(work)] = timed
            forget(own, KINDS)
            await once[work]()
            used = {name.kind for name in own._store._lock.guarded.cache.records}
            for kind in KINDS:
                if kind.name in used:
                    subjects[not_cached(work, kind)] = partial(without_cache, own, kind, timed)
        yield subjects


def all_cached(work: str) -> str:
    """Return the name of a subject."""
    return f"{work}, all cached"


def not_cached(work: str, kind: Kind) -> str:
    """Return the name of a subject."""
    return f"{work}, without {kind.name}"


async def without_cache(own: OlmMachine, kind: Kind, timed: Timed, loops: int) -> float:
    """Measure the time of some work while a kind of record is not cached."""
    # The kind is changed in place, since the machine's modules and the store must use the same object.
    object.__setattr__(kind, "cached", False)
    try:
        forget(own, [kind])
        return await timed(loops)
    finally:
        object.__setattr__(kind, "cached", True)


def forget(own: OlmMachine, kinds: Iterable[Kind]) -> None:
    """Drop the cached records of some kinds."""
    guarded, names = own._store._lock.guarded, {kind.name for kind in kinds}
    guarded.forget([name for name in guarded.cache.records if name.kind in names])


GROUPS: Final[dict[str, Group]] = {"messages": messages, "handover": handover, "caches": caches}


def measure(effort: Effort) -> None:
    """Measure, and write raw results into ``RESULTS``."""
    measure_in_rounds(MODULE, list(GROUPS), effort.rounds_if_slow, python=PEERS_PYTHON)


PAIRS: Final[tuple[Pair, ...]] = (
    (named(OURS, TO_DEVICE), named(BARE_STEPS, TO_DEVICE), 1.3),
    (named(OURS, ENCRYPTED), named(BARE_STEPS, ENCRYPTED), 1.3),
    (named(OURS, FIRST), named(BARE_STEPS, FIRST), None),
    (named(OURS, FIRST_OF_MANY), named(BARE_STEPS, FIRST_OF_MANY), 1.5),
    (named(OURS, AGAIN), named(BARE_STEPS, AGAIN), 1.5),
)
HANDED_OVER: Final[tuple[Pair, ...]] = (
    (with_sessions(SESSIONS[1]), with_sessions(SESSIONS[0]), 1.1),
    (with_sessions(SESSIONS[0]), BARE_OPERATION, None),
)


def targets() -> list[Target]:
    """Return the ratios with their targets."""
    return targets_of(Results(MODULE), *PAIRS, *HANDED_OVER)


def report() -> str:
    """Return a section of the report, made from raw results."""
    results = Results(MODULE)
    works = (TO_DEVICE, ENCRYPTED, FIRST, FIRST_OF_MANY, AGAIN)
    theirs: list[Pair] = [
        (named(OURS, work), named(library, work), None)
        for work in works
        for library in (NIO, MAUTRIX, MAUTRIX_DURABLE)
        if library != NIO or work == TO_DEVICE
    ]
    uncached = ", ".join(f"`{kind.name}`" for kind in KINDS if not kind.cached)
    measured = set(results.suite.get_benchmark_names())
    not_measured = ", ".join(
        f"`{kind.name}`"
        for kind in KINDS
        if kind.cached and not any(not_cached(work, kind) in measured for work in CACHED_WORKS)
    )
    in_memory = ", ".join(f"{duration(results.of(named(NIO, work)).median)} ({work})" for work in works[1:])
    return f"""\
## The machine

`OlmMachine`, from the JSON of an event to the JSON of another event or to its content. This includes all checks that
the Matrix specification demands: the form of the event, its sender, its recipient, the signature of the sender's device
keys, and replays. The baseline is the bare steps without any check: the same ratchet through vodozemac, its pickle if
it has advanced, and one bare transaction of one row through aiosqlite, as above (WAL, `synchronous=FULL`).

- **A to-device message** is the only event of a sync response. The token of the sync is written in the same commit.
- **A room message encrypted** for a room whose key was shared before. Its index is used up before anything leaves.
- **The first reading of a room message** is noted in a commit, so that the message can't be replayed as another event.
  The commit can't be delayed, since another process would not recognise a replay meanwhile. So a program should read
  many messages at once: {BATCH} of them are one commit.
- **Reading again** writes nothing.

A room gets another key after each {BATCH} messages. The arrival of the key is not measured.

{compared(results, *PAIRS)}

The same work is done by two other libraries, in their default configuration and from the same JSON. They take no lock,
and one process uses their stores. Neither verifies the signature of the device keys in a to-device message.

- **matrix-nio** keeps outbound sessions and readings only in memory, and loses both at a restart. So only the to-device
  message can be compared. The others take {in_memory}.
- **mautrix** makes a commit for each reading, also for a repeated one. With NORMAL, which is its default, its last
  commits may be lost in a power cut, and then a ratchet moves back.

{compared(results, *theirs)}

### A handover and the next operation

Another process has encrypted a message in the same room and released the lease. The table shows the time to acquire the
lease, to bring the cache up to date, to load what changed and to encrypt the next message. Each Olm session is with
another device.

{compared(results, *HANDED_OVER)}

### What each cache brings

The table says how many times as long an operation takes if one kind of record is not cached. Only kinds that the
operation uses are listed. If the value is near 1, the cache of that kind does not help. An operation that reads {BATCH}
messages reads each record once.

These kinds are not cached, since their records are read once or rarely: {uncached}.

The caches of these kinds are not measured, since only other operations read their records, such as a verification or
the first message of a session: {not_measured}.

{cache_table(results)}
"""


def cache_table(results: Results) -> str:
    """Return the table of times without the cache of each kind."""
    measured = set(results.suite.get_benchmark_names())
    rows = []
    for kind in KINDS:
        found = [not_cached(work, kind) in measured for work in CACHED_WORKS]
        if any(found):
            cells = [
                digits(results.ratio(not_cached(work, kind), all_cached(work)).median) if there else ""
                for work, there in zip(CACHED_WORKS, found, strict=True)
            ]
            rows.append((f"`{kind.name}`", *cells))
    return table(("without the cache of", *CACHED_WORKS), rows)


if __name__ == "__main__":
    program(MODULE, GROUPS)
