"""Set up the devices of two other Matrix libraries in Python, in their default configuration, in a single process.

Each takes the events as JSON, as the machine does. The libraries are only in the peers' environment.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from bench.correspondents import ALICE, BOB, CONTENT, EVENTS_OF_A_KEY, ROOM, Bob, Library, known
from unwedged.machine.identifiers import MEGOLM, JsonObject

SECRET: Final = "secret"
LARGE: Final = 2**62
ENCRYPTION: Final = {"algorithm": MEGOLM, "rotation_period_ms": 604_800_000, "rotation_period_msgs": EVENTS_OF_A_KEY}


@asynccontextmanager
async def matrix_nio(folder: Path) -> AsyncIterator[Library]:
    """Set up matrix-nio. It uses a rollback journal with ``synchronous=FULL``, and stores no outbound sessions."""
    from nio.crypto import Olm
    from nio.crypto.device import OlmDevice
    from nio.events import MegolmEvent, OlmEvent
    from nio.store import DefaultStore

    logging.getLogger("nio").setLevel(logging.CRITICAL)
    store = DefaultStore(ALICE.user_id, ALICE.device_id, str(folder), SECRET)
    own = Olm(ALICE.user_id, ALICE.device_id, store)
    own.account.generate_one_time_keys(1)
    [one_time_key] = own.account.one_time_keys["curve25519"].values()
    bob = Bob()
    own.device_store.add(OlmDevice(BOB.user_id, BOB.device_id, {"ed25519": bob.ed25519, "curve25519": bob.curve25519}))

    async def receive(event: JsonObject) -> None:
        assert own.handle_to_device_event(OlmEvent.from_dict(event)) is not None

    async def encrypt() -> object:
        return own.group_encrypt(ROOM, {"type": "m.room.message", "content": CONTENT})

    async def read(events: Sequence[JsonObject]) -> object:
        return [own.decrypt_megolm_event(MegolmEvent.from_dict(event), ROOM) for event in events]

    identity = own.account.identity_keys
    await receive(bob.greet(known(identity["curve25519"], identity["ed25519"]), one_time_key))
    reply = own.session_store.get(bob.curve25519).encrypt("hello")
    kind, body = reply.to_parts()
    bob.hear(kind, base64.b64encode(body).decode())
    own.create_outbound_group_session(ROOM)
    own.outbound_group_sessions[ROOM].mark_as_shared()
    own.outbound_group_sessions[ROOM].max_messages = LARGE
    yield Library(bob, receive, encrypt, read, read)
    store.database.close()


class _Client:
    """The methods of a client that mautrix's machine calls here."""

    mxid = ALICE.user_id
    device_id = ALICE.device_id

    def add_event_handler(self, *_: object, **__: object) -> None:
        pass

    def dispatch_event(self, *_: object, **__: object) -> None:
        pass


class _Rooms:
    """The methods of a store of room states that mautrix's machine calls here."""

    def __init__(self, encryption: object) -> None:
        self._encryption = encryption

    async def get_encryption_info(self, _: object) -> object:
        return self._encryption


@asynccontextmanager
async def mautrix(folder: Path, synchronous: str) -> AsyncIterator[Library]:
    """Set up mautrix. It uses the write-ahead log with ``synchronous=NORMAL``, unless its settings say otherwise."""
    from mautrix.client import SyncStream
    from mautrix.crypto import OlmMachine, OutboundGroupSession, PgCryptoStore
    from mautrix.types import (
        DeviceIdentity,
        EncryptedEvent,
        EventType,
        RoomEncryptionStateEventContent,
        ToDeviceEvent,
        TrustState,
    )
    from mautrix.util.async_db import Database

    logging.getLogger("mau").setLevel(logging.CRITICAL)
    settings = {} if synchronous == "NORMAL" else {"init_commands": [f"PRAGMA synchronous = {synchronous}"]}
    database = Database.create(
        f"sqlite:///{folder}/machine-{synchronous}.db", db_args=settings, upgrade_table=PgCryptoStore.upgrade_table
    )
    await database.start()
    store = PgCryptoStore(ALICE.user_id, SECRET, database)
    own = OlmMachine(_Client(), store, _Rooms(RoomEncryptionStateEventContent.deserialize(ENCRYPTION)))
    await own.load()
    own.account.generate_one_time_keys(1)
    [one_time_key] = own.account.one_time_keys["curve25519"].values()
    bob = Bob()
    device = DeviceIdentity(
        user_id=BOB.user_id,
        device_id=BOB.device_id,
        identity_key=bob.curve25519,
        signing_key=bob.ed25519,
        trust=TrustState.VERIFIED,
        deleted=False,
        name="",
    )
    await store.put_devices(BOB.user_id, {BOB.device_id: device})

    async def receive(event: JsonObject) -> None:
        parsed = ToDeviceEvent.deserialize(event)
        parsed.type = EventType.TO_DEVICE_ENCRYPTED
        parsed.source = SyncStream.TO_DEVICE
        await own.handle_to_device_event(parsed)

    async def encrypt() -> object:
        return await own.encrypt_megolm_event(ROOM, EventType.ROOM_MESSAGE, CONTENT)

    async def read(events: Sequence[JsonObject]) -> object:
        return [await own.decrypt_megolm_event(EncryptedEvent.deserialize(event)) for event in events]

    await receive(bob.greet(known(own.account.identity_key, own.account.signing_key), one_time_key))
    [session] = await store.get_sessions(bob.curve25519)
    reply = session.encrypt("hello")
    bob.hear(reply.type.value, reply.body)
    await store.update_session(bob.curve25519, session)
    group_session = OutboundGroupSession(ROOM)
    group_session.shared = True
    group_session.max_messages = LARGE
    await store.add_outbound_group_session(group_session)
    yield Library(bob, receive, encrypt, read, read)
    await database.stop()
