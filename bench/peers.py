"""Measure the same work by the stores of other Matrix libraries in Python, in their default configuration.

One process uses each store. It runs in the environment ``.venv/peers``, with the packages of
``requirements/peers.txt``.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from vodozemac import Account, AnyOlmMessage, Curve25519PublicKey, GroupSession, Session

from bench.measuring import PEERS_PYTHON, Effort, Group, Results, Target, Timed, each, measure_in_rounds, program
from bench.reporting import compared, duration
from bench.stores import GROUP_SESSIONS, SESSIONS, opened, settle_logs
from examples.story.olm import OlmMessage, OlmSession
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.store import Transaction
from unwedged.store.sqlite import SqliteBackend

MODULE: Final = "bench.peers"

USER: Final = "@alice:example.org"
DEVICE: Final = "ALICESPHONE"
ROOM: Final = "!room:example.org"
SECRET: Final = "secret"
TEXT: Final = "A message as short as most of those that people write to each other."

TO_DEVICE: Final = "to-device message"
ROOM_MESSAGE: Final = "room message"

Receive = Callable[[OlmMessage], Awaitable[object]]
"""Decrypts a message, and makes the advanced session durable."""


class Bob:
    """The device that sends the to-device messages. It encrypts them before the time is measured."""

    def __init__(self) -> None:
        self._account = Account()
        self.identity_key = self._account.curve25519_key.to_base64()
        self._session: Session | None = None

    def greet(self, identity_key: str, one_time_key: str) -> OlmMessage:
        """Open a session."""
        keys = (Curve25519PublicKey.from_base64(key) for key in (identity_key, one_time_key))
        self._session = self._account.create_outbound_session(*keys)
        return self._encrypt()

    def hear(self, reply: AnyOlmMessage) -> None:
        """Receive the first reply. After it, all messages are ordinary messages."""
        assert self._session is not None
        self._session.decrypt(reply)

    def sending_to(self, receive: Receive) -> Timed:
        """Measure the time to receive messages, without the time to encrypt them."""

        async def timed(loops: int) -> float:
            messages = [self._encrypt() for _ in range(loops)]
            began = time.perf_counter()
            for message in messages:
                await receive(message)
            return time.perf_counter() - began

        return timed

    def _encrypt(self) -> OlmMessage:
        assert self._session is not None
        return OlmMessage(*self._session.encrypt(TEXT.encode()).to_parts())


def name_of(library: str, synchronous: str, work: str) -> str:
    """Return the name of a subject."""
    return f"{library}, synchronous={synchronous}: {work}"


def new_key(account: Account) -> str:
    """Return a new one-time key."""
    account.generate_one_time_keys(1)
    [key] = account.one_time_keys.values()
    return key.to_base64()


@asynccontextmanager
async def unwedged(folder: Path, synchronous: str) -> AsyncIterator[Mapping[str, Timed]]:
    """Set up the store of this project."""
    bob, account = Bob(), Account()
    first = bob.greet(account.curve25519_key.to_base64(), new_key(account))
    opening = AnyOlmMessage.from_parts(first.type, first.body).to_pre_key()
    assert opening is not None
    met, _ = account.create_inbound_session(Curve25519PublicKey.from_base64(bob.identity_key), opening)
    bob.hear(met.encrypt(b"hello"))

    async def prepare(transaction: Transaction) -> None:
        transaction.put(SESSIONS, bob.identity_key, OlmSession(met))
        transaction.put(GROUP_SESSIONS, ROOM, GroupSession())

    async def decrypt(message: OlmMessage, transaction: Transaction) -> str:
        session = await transaction.get(SESSIONS, bob.identity_key)
        assert session is not None
        # Without a copy: if it fails, the object is not put, so the store drops it.
        text = session._session.decrypt(AnyOlmMessage.from_parts(message.type, message.body))
        transaction.put(SESSIONS, bob.identity_key, session)
        return text.decode()

    async def encrypt(transaction: Transaction) -> object:
        session = await transaction.get(GROUP_SESSIONS, ROOM)
        assert session is not None
        message = session.encrypt(TEXT.encode())
        transaction.put(GROUP_SESSIONS, ROOM, session)
        return message

    async with opened(folder / f"unwedged-{synchronous}.db") as store:
        backend = store._services.backend
        assert isinstance(backend, SqliteBackend)
        await backend._read(f"PRAGMA synchronous = {synchronous}", {})
        await store.run(prepare)
        yield {
            name_of("unwedged", synchronous, TO_DEVICE): bob.sending_to(
                lambda message: store.run(partial(decrypt, message))
            ),
            name_of("unwedged", synchronous, ROOM_MESSAGE): each(lambda: store.run(encrypt)),
        }


@asynccontextmanager
async def matrix_nio(folder: Path) -> AsyncIterator[Mapping[str, Timed]]:
    """Set up the store of matrix-nio. It uses a rollback journal with SQLite's default, ``synchronous=FULL``.

    It does not store outbound group sessions, so encrypting a room message makes nothing durable.
    """
    from nio.crypto import InboundSession, OlmAccount, OutboundGroupSession
    from nio.store import DefaultStore

    store = DefaultStore(USER, DEVICE, str(folder), SECRET)
    bob, account = Bob(), OlmAccount()
    account.generate_one_time_keys(1)
    [one_time_key] = account.one_time_keys["curve25519"].values()
    first = bob.greet(account.identity_keys["curve25519"], one_time_key)
    opening = AnyOlmMessage.from_parts(first.type, first.body).to_pre_key()
    session = InboundSession(account, opening, bob.identity_key)
    session.decrypt(opening)
    bob.hear(session.encrypt("hello"))
    group_session = OutboundGroupSession()
    group_session.mark_as_shared()
    group_session.max_messages = 2**63
    store.save_account(account)

    async def receive(message: OlmMessage) -> object:
        text = session.decrypt(AnyOlmMessage.from_parts(message.type, message.body))
        store.save_session(bob.identity_key, session)
        return text

    async def encrypt() -> object:
        return group_session.encrypt(TEXT)

    yield {
        name_of("matrix-nio", "FULL", TO_DEVICE): bob.sending_to(receive),
        name_of("matrix-nio", "in memory only", ROOM_MESSAGE): each(encrypt),
    }
    store.database.close()


@asynccontextmanager
async def mautrix(folder: Path, synchronous: str) -> AsyncIterator[Mapping[str, Timed]]:
    """Set up the store of mautrix-python. It uses ``synchronous=NORMAL`` unless its settings say otherwise."""
    from mautrix.crypto import OlmAccount, OutboundGroupSession, PgCryptoStore
    from mautrix.types import OlmCiphertext, OlmMsgType
    from mautrix.util.async_db import Database

    settings = {} if synchronous == "NORMAL" else {"init_commands": [f"PRAGMA synchronous = {synchronous}"]}
    database = Database.create(
        f"sqlite:///{folder}/mautrix-{synchronous}.db", db_args=settings, upgrade_table=PgCryptoStore.upgrade_table
    )
    await database.start()
    store = PgCryptoStore(USER, SECRET, database)
    bob, account = Bob(), OlmAccount()
    account.generate_one_time_keys(1)
    [one_time_key] = account.one_time_keys["curve25519"].values()
    first = bob.greet(account.identity_key, one_time_key)

    def ciphertext(message: OlmMessage) -> object:
        return OlmCiphertext(type=OlmMsgType(message.type), body=to_unpadded(message.body))

    met = account.new_inbound_session(bob.identity_key, to_unpadded(first.body))
    met.decrypt(ciphertext(first))
    reply = met.encrypt("hello")
    bob.hear(AnyOlmMessage.from_parts(reply.type.value, unpadded(reply.body)))
    group_session = OutboundGroupSession(ROOM)
    group_session.shared = True
    group_session.max_messages = 2**62
    await store.put_account(account)
    await store.add_session(bob.identity_key, met)
    await store.add_outbound_group_session(group_session)

    async def receive(message: OlmMessage) -> object:
        [session] = await store.get_sessions(bob.identity_key)
        text = session.decrypt(ciphertext(message))
        await store.update_session(bob.identity_key, session)
        return text

    async def encrypt() -> object:
        session = await store.get_outbound_group_session(ROOM)
        message = session.encrypt(TEXT)
        await store.update_outbound_group_session(session)
        return message

    yield {
        name_of("mautrix", synchronous, TO_DEVICE): bob.sending_to(receive),
        name_of("mautrix", synchronous, ROOM_MESSAGE): each(encrypt),
    }
    await database.stop()


@asynccontextmanager
async def peers(folder: Path) -> AsyncIterator[Mapping[str, Timed]]:
    """Set up all stores, each with its own default durability and with that of the other side."""
    async with (
        unwedged(folder, "FULL") as ours,
        matrix_nio(folder) as nio,
        mautrix(folder, "FULL") as durable,
        unwedged(folder, "NORMAL") as ours_relaxed,
        mautrix(folder, "NORMAL") as relaxed,
    ):
        settle_logs(folder)
        yield {**ours, **nio, **durable, **ours_relaxed, **relaxed}


GROUPS: Final[dict[str, Group]] = {"peers": peers}


def measure(effort: Effort) -> None:
    """Measure, and write raw results into ``RESULTS``."""
    measure_in_rounds(MODULE, list(GROUPS), effort.rounds, python=PEERS_PYTHON)


COMPARED: Final = (
    ("matrix-nio", "FULL", "FULL", (TO_DEVICE,)),
    ("mautrix", "NORMAL", "NORMAL", (TO_DEVICE, ROOM_MESSAGE)),
    ("mautrix", "FULL", "FULL", (TO_DEVICE, ROOM_MESSAGE)),
    ("mautrix", "NORMAL", "FULL", (TO_DEVICE, ROOM_MESSAGE)),
)
"""A library, its durability, the durability of this store, and the work. If the durability is the same, there is a
target."""


def targets() -> list[Target]:
    """Return the ratios with their targets."""
    results = Results(MODULE)
    return [
        Target(
            f"{work}: unwedged / {peer}, {ours}",
            results.ratio(name_of("unwedged", ours, work), name_of(peer, theirs, work)),
            1.0,
        )
        for peer, theirs, ours, works in COMPARED
        for work in works
        if ours == theirs
    ]


def report() -> str:
    """Return a section of the report, made from raw results."""
    results = Results(MODULE)
    in_memory = duration(results.of(name_of("matrix-nio", "in memory only", ROOM_MESSAGE)).median)
    pairs = [
        (name_of("unwedged", ours, work), name_of(peer, theirs, work), 1.0 if ours == theirs else None)
        for peer, theirs, ours, works in COMPARED
        for work in works
    ]
    return f"""\
## Other libraries

A to-device message is decrypted, or a room message is encrypted, and the advanced ratchet is made durable: by this
store, and by two Matrix libraries in Python with their own stores. Those stores take no lock, write one session in each
transaction, and serve one process. Sync, parsing and the verification of senders are not measured, on either side.

- **matrix-nio** keeps its sessions in memory. It uses SQLite's rollback journal with SQLite's default durability,
  `synchronous=FULL`. It never stores outbound group sessions. So encrypting a room message makes nothing durable, takes
  {in_memory}, and can't be compared.
- **mautrix** reads a session's row for each message, and keeps Olm sessions in memory, but not group sessions. It uses
  the write-ahead log with `synchronous=NORMAL`: its last commits may be lost in a power cut, and then a ratchet moves
  back. It can be configured to use `FULL`.
- This store uses `FULL`, and is measured with `NORMAL` only for comparison. A message that can't be decrypted may
  change the session object. This store drops that object, since it was not put; both other libraries continue to use
  it.

The last two rows compare different guarantees: they show what it costs to survive a power cut.

{compared(results, *pairs)}
"""


if __name__ == "__main__":
    program(MODULE, GROUPS)
