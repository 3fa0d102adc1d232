"""The replay of the module Inbox notices a broken machine."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from checking.machine_replay.counterparts import COUNTERPARTS
from checking.models.manifest import Manifest
from checking.tlc.graph import Graph
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import State, Value, record
from tests.checking.machine_breaks import Break, graph_of
from unwedged.machine import SyncOutcome, SyncPosition, inbox, rooms
from unwedged.machine.errors import MessageUnreadable
from unwedged.machine.identifiers import PeerName, TransactionId, UserId
from unwedged.machine.records import (
    BACKLOG,
    PEER,
    PUT_ASIDE,
    SYNC,
    UNPROCESSED,
    Backlog,
    InboundSession,
    OwnDevice,
    PutAside,
)
from unwedged.machine.sync import TO_DEVICE, SyncChanges
from unwedged.store import RecordKind, Transaction

INBOX = COUNTERPARTS["MCInbox.tla"]
MOST_STEPS = 5_000
"""The replay notices each break of the machine within this number of steps."""


@pytest.fixture(scope="module")
def graph(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplayInbox", tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def graph_of_repeats(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplayInboxOfRepeats", tmp_path_factory.mktemp("repeats"))


@pytest.fixture(scope="module")
def sliding_graph(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplayInboxSliding", tmp_path_factory.mktemp("sliding"))


@pytest.fixture(scope="module")
def graph_of_put_aside(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplayInboxPutAside", tmp_path_factory.mktemp("aside"))


@pytest.fixture(scope="module")
def graph_of_records(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplayInboxOfRecords", tmp_path_factory.mktemp("records"))


# Breaks that a replay must notice

sound_put = Transaction.put
sound_take = inbox._take_events
sound_decrypt = inbox._decrypt
sound_try_again = inbox.try_again
sound_work_off = inbox.work_off


def _put_no_session(transaction: Transaction, kind: RecordKind[object, object], key: object, value: object) -> None:
    if kind.name != PEER.name:
        sound_put(transaction, kind, key, value)


async def _take_instead(
    transaction: Transaction, backlog: Backlog | None, events: list[object], outcome: SyncOutcome, now_ms: int
) -> Backlog | None:
    """Let a batch replace the recorded one."""
    if backlog is not None:
        transaction.delete(BACKLOG, None)
        for part in await transaction.keys(UNPROCESSED):
            transaction.delete(UNPROCESSED, part)
    return await sound_take(transaction, None, events, outcome, now_ms)


async def _take_at_once(
    transaction: Transaction, backlog: Backlog | None, events: list[object], outcome: SyncOutcome, now_ms: int
) -> Backlog | None:
    """Apply a batch although an earlier one is still recorded."""
    left = await sound_take(transaction, None, events, outcome, now_ms)
    if backlog is None:
        return left
    transaction.put(BACKLOG, None, backlog)
    return backlog


async def _work_off_newest(transaction: Transaction, now_ms: int) -> SyncOutcome | None:
    """Begin with the newest record."""
    backlog = await transaction.get(BACKLOG, None)
    if backlog is None:
        return None
    newest = backlog.next - 1
    transaction.put(BACKLOG, None, Backlog(newest, newest + 2))
    outcome = await sound_work_off(transaction, now_ms)
    if newest == backlog.first:
        transaction.delete(BACKLOG, None)
    else:
        transaction.put(BACKLOG, None, Backlog(backlog.first, newest))
    return outcome


async def _work_off_backwards(transaction: Transaction, now_ms: int) -> SyncOutcome | None:
    """Begin with the last message of a record."""
    backlog = await transaction.get(BACKLOG, None)
    if backlog is not None:
        events = await transaction.get(UNPROCESSED, backlog.first) or []
        transaction.put(UNPROCESSED, backlog.first, events[::-1])
    return await sound_work_off(transaction, now_ms)


async def _work_off_the_first(transaction: Transaction, now_ms: int) -> SyncOutcome | None:
    """Delete a record when its first message is processed."""
    backlog = await transaction.get(BACKLOG, None)
    if backlog is not None:
        events = await transaction.get(UNPROCESSED, backlog.first) or []
        transaction.put(UNPROCESSED, backlog.first, events[:1])
    return await sound_work_off(transaction, now_ms)


async def _work_off_until_one_fails(transaction: Transaction, now_ms: int) -> SyncOutcome | None:
    """Delete a record when one of its messages can't be used."""
    backlog = await transaction.get(BACKLOG, None)
    if backlog is None:
        return None
    total = SyncOutcome()
    for event in await transaction.get(UNPROCESSED, backlog.first) or []:
        transaction.put(UNPROCESSED, backlog.first, [event])
        transaction.put(BACKLOG, None, backlog)
        outcome = await sound_work_off(transaction, now_ms)
        assert outcome is not None  # it was restored
        total.add(outcome)
        if outcome.events[-1].type in (MessageUnreadable.code, "put_aside"):
            break
    return total


async def _take_by_connection(
    transaction: Transaction, changes: SyncChanges, asked_with: SyncPosition, outcome: SyncOutcome
) -> bool:
    """Take messages from the next response of a connection, whatever the other connection has delivered."""
    del asked_with
    if outcome.applied and changes.next_to_device_token is not None:
        transaction.put(SYNC, TO_DEVICE, changes.next_to_device_token)
    return outcome.applied


async def _try_again_and_keep(transaction: Transaction, names: Iterable[TransactionId], now_ms: int) -> SyncOutcome:
    """Keep processed messages put aside."""
    before: dict[TransactionId, PutAside] = {}
    for name in names:
        aside = await transaction.get(PUT_ASIDE, name)
        assert aside is not None  # no other process is running
        before[name] = aside
    outcome = await sound_try_again(transaction, before, now_ms)
    for name, aside in before.items():
        transaction.put(PUT_ASIDE, name, aside)
    return outcome


async def _decrypt_without_a_trace(
    transaction: Transaction, sender: UserId, content: inbox._Encrypted, own: OwnDevice
) -> tuple[bytes, PeerName | None]:
    """Decrypt a message, and leave the stored session unchanged."""
    stored: dict[PeerName, bytes] = {}
    for name in await transaction.keys(PEER):
        peer = await transaction.get(PEER, name)
        assert peer is not None  # listed above
        stored[name] = PEER.value.encode(peer)
    decrypted = await sound_decrypt(transaction, sender, content, own)
    for name, encoded in stored.items():
        transaction.put(PEER, name, PEER.value.decode(encoded))
    return decrypted


def _newest(offered: InboundSession, stored: InboundSession) -> InboundSession | None:
    del stored
    return offered


def _oldest(offered: InboundSession, stored: InboundSession) -> InboundSession | None:
    del offered, stored
    return None


BREAKS = {
    "a batch takes the place of what is recorded": Break(
        [(inbox, "_take_events", _take_instead)], r"store\.backlog|these messages are not"
    ),
    "a batch overtakes what is recorded": Break(
        [(inbox, "_take_events", _take_at_once)], r"store\.(backlog|effects)|these messages are not"
    ),
    "what was recorded last comes first": Break([(inbox, "work_off", _work_off_newest)], r"comes out of turn"),
    "a better key is not taken": Break([(rooms, "merged", _oldest)], r"store\.key: the model has 0, the machine 1"),
    "a session is not stored": Break([(Transaction, "put", _put_no_session)], r"store\.session\.open"),
    **{
        slug: Break(INBOX.faults[slug](), told)
        for slug, told in {
            "stale-sync-response": r"the machine takes it",
            "two-commits-per-sync": r"a response comes again, but the machine takes it",
            "device-flag-lost": r"store\.outdated",
            "failed-decrypt-mutates": r"sent|store\.session",
            "acknowledged-before-processed": r"store\.backlog: the model has .*, the machine <<>>",
        }.items()
    },
}
BREAKS_OF_REPEATS = {
    "a worse key is taken": Break([(rooms, "merged", _newest)], r"store\.key: the model has 1, the machine 2"),
    "hash-after-failure": Break(INBOX.faults["hash-after-failure"](), r"store\.(effects|unwedge)"),
    "better-key-lost-in-batch": Break(INBOX.faults["better-key-lost-in-batch"](), r"store\.key: the model has 1"),
}


BREAKS_OF_PUT_ASIDE = {
    "what was used stays put aside": Break([(inbox, "try_again", _try_again_and_keep)], r"comes out of turn"),
    "a session is stored as it was before a message": Break(
        [(inbox, "_decrypt", _decrypt_without_a_trace)], r"store\.session\.(read|chain)"
    ),
    "put-aside-decrypted-again": Break(INBOX.faults["put-aside-decrypted-again"](), r"store\.(aside|effects)"),
}
BREAKS_OF_RECORDS = {
    "the last message of a record comes first": Break([(inbox, "work_off", _work_off_backwards)], r"comes out of turn"),
    "the first message of a record is all of it": Break([(inbox, "work_off", _work_off_the_first)], r"store\.effects"),
    "a message that can't be used ends its record": Break(
        [(inbox, "work_off", _work_off_until_one_fails)], r"store\.effects"
    ),
    "better-key-lost-in-batch": Break(INBOX.faults["better-key-lost-in-batch"](), r"store\.key"),
}
"""All except the last one are noticed only if a record has several messages."""
BREAKS_OF_SLIDING = {
    "a connection heeds its own token only": Break(
        [(inbox, "_takes_to_device", _take_by_connection)], r"the machine takes it"
    ),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_machine_diverges(graph: Graph, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    BREAKS[broken].must_diverge(monkeypatch, graph, INBOX, MOST_STEPS)


@pytest.mark.parametrize("broken", BREAKS_OF_REPEATS)
def test_a_broken_machine_diverges_where_messages_come_again(
    graph_of_repeats: Graph, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    BREAKS_OF_REPEATS[broken].must_diverge(monkeypatch, graph_of_repeats, INBOX, MOST_STEPS)


@pytest.mark.parametrize("broken", BREAKS_OF_PUT_ASIDE)
def test_a_broken_machine_diverges_where_the_program_has_a_fault(
    graph_of_put_aside: Graph, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    BREAKS_OF_PUT_ASIDE[broken].must_diverge(monkeypatch, graph_of_put_aside, INBOX, MOST_STEPS)


@pytest.mark.parametrize("broken", BREAKS_OF_RECORDS)
def test_a_broken_machine_diverges_where_a_record_has_several_messages(
    graph_of_records: Graph, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    BREAKS_OF_RECORDS[broken].must_diverge(monkeypatch, graph_of_records, INBOX, MOST_STEPS)


@pytest.mark.parametrize("broken", BREAKS_OF_SLIDING)
def test_a_broken_machine_diverges_where_connections_share_a_token(
    sliding_graph: Graph, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    BREAKS_OF_SLIDING[broken].must_diverge(monkeypatch, sliding_graph, INBOX, MOST_STEPS)


# Properties


def inbox_state(*, sent: tuple[Value, ...] = ((1, 0), (1, 1), (2, 0)), **store: Value) -> State:
    """Return a state of ReplayInbox in which all messages except the last one are applied."""
    right: dict[str, Value] = {
        "token": 3,
        "account": "spent",
        "session": record(open=True),
        "key": 1,
        "outdated": frozenset({2}),
        "unwedge": frozenset({2}),
        "backlog": (3,),
        "aside": frozenset(),
        "effects": (1, 1, 0),
    }
    return {"store": record(**(right | store)), "sent": sent}


RIGHT = {
    "one is recorded": inbox_state(),
    "one is put aside": inbox_state(backlog=(), aside=frozenset({3})),
    "all are applied": inbox_state(backlog=(), effects=(1, 1, 1), key=0),
    "nothing has come": inbox_state(
        token=0,
        account="offered",
        session=record(open=False),
        key=9,
        outdated=frozenset(),
        backlog=(),
        effects=(0, 0, 0),
    ),
}


@pytest.mark.parametrize("state", RIGHT.values(), ids=RIGHT)
def test_what_is_right_is_accepted(state: State) -> None:
    assert [holds(state, state) for holds in INBOX.properties.values()] == [None] * 4


WRONG = {
    "a message is neither applied nor recorded": (
        inbox_state(backlog=()),
        "NothingLost",
        "the token has passed the message 3",
    ),
    "a better key is not stored": (
        inbox_state(backlog=(), effects=(1, 1, 1)),
        "NothingLost",
        "the room key of the message 3 is not stored",
    ),
    "a message has two effects": (
        inbox_state(effects=(1, 2, 0)),
        "ExactlyOnce",
        r"the messages [2] took effect twice",
    ),
    "a session without its account": (
        inbox_state(account="offered"),
        "AtomicSync",
        "without the use of its one-time key",
    ),
    "a change is not marked": (inbox_state(outdated=frozenset()), "AtomicSync", "lists changed at {2}"),
    "a position is used twice": (inbox_state(sent=((1, 0), (1, 0))), "NoRatchetReuse", "was used twice"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_reported(wrong: str) -> None:
    state, violated, told = WRONG[wrong]
    found = {name: detail for name, holds in INBOX.properties.items() if (detail := holds(state, state)) is not None}
    assert found.keys() == {violated}
    assert told in found[violated]
