"""The replay of the module Sharing notices a broken machine."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from checking.machine_replay.counterparts import COUNTERPARTS
from checking.models.manifest import Manifest
from checking.tlc.graph import Graph
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import ModelValue, State, Value, function, record
from tests.checking.machine_breaks import Break, graph_of
from unwedged.machine import RoomMessage, Sharing, ToDevice, outbox, sharing
from unwedged.machine.identifiers import Device, JsonObject, RoomId, TransactionId
from unwedged.machine.records import OUTBOUND, OUTBOX
from unwedged.store import Transaction

SHARING = COUNTERPARTS["MCSharing.tla"]
MOST_STEPS = 2_000
"""The replay notices each break of the machine within this number of steps."""


@pytest.fixture(scope="module")
def graph(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplaySharingUnsent", tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def graph_of_two_keys(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplaySharingOfTwoKeys", tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def graph_of_three_devices(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplaySharingOfThreeDevices", tmp_path_factory.mktemp("devices"))


@pytest.fixture(scope="module")
def graph_of_one_request(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplaySharingInOneRequest", tmp_path_factory.mktemp("request"))


# Breaks that a replay must notice

sound_encrypt = sharing.encrypt
sound_send = outbox.send


async def _encrypt_for_whomever(
    transaction: Transaction,
    room_id: RoomId,
    shared: Sharing,
    event_type: str,
    content: Mapping[str, object],
    now_ms: int,
) -> JsonObject:
    outbound = await transaction.get(OUTBOUND, room_id)
    if outbound is not None:
        shared = Sharing(outbound.session.session_id, outbound.members_number, shared.outdated, shared.without_session)
    return await sound_encrypt(transaction, room_id, shared, event_type, content, now_ms)


BREAKS = {
    "nobody looks who the key was shared with": Break(
        [(sharing, "encrypt", _encrypt_for_whomever)], r"does not allow the step Encrypt"
    ),
    **{
        slug: Break(SHARING.faults[slug](), told)
        for slug, told in {
            "send-before-persist": r"store\.session\.index",
            "save-error-ignored": r"store\.session\.index",
            "requests-in-memory": r"store\.outbox",
            "shared-then-invalidated": r"store: the model has|store\.session",
            "left-member-kept": r"store\.session\.number: the model has 2, the machine 1",
        }.items()
    },
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_machine_diverges(graph: Graph, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    BREAKS[broken].must_diverge(monkeypatch, graph, SHARING, MOST_STEPS)


async def _settle_the_newest(transaction: Transaction, request: ToDevice | RoomMessage) -> None:
    """Treat the newest key as the one that was sent."""
    names = [name for name in await transaction.keys(OUTBOX) if name >= request.transaction_id]
    if request.transaction_id in names:
        transaction.delete(OUTBOX, max(names))


def test_a_machine_that_settles_another_key_than_was_sent_diverges(
    graph_of_two_keys: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Break([(outbox, "sent", _settle_the_newest)], r"store\.outbox")
    broken.must_diverge(monkeypatch, graph_of_two_keys, SHARING, MOST_STEPS)


def _send_to_the_first(
    transaction: Transaction, event_type: str, contents: Mapping[Device, JsonObject]
) -> TransactionId:
    """Send the key to only one of the devices that get it in one commit."""
    return sound_send(transaction, event_type, dict(list(contents.items())[:1]))


def test_a_machine_that_sends_to_one_of_several_devices_diverges(
    graph_of_three_devices: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Break([(sharing, "send", _send_to_the_first)], r"store\.outbox")
    broken.must_diverge(monkeypatch, graph_of_three_devices, SHARING, MOST_STEPS)


async def _settle_the_first(transaction: Transaction, request: ToDevice | RoomMessage) -> None:
    """Treat a request as sent to the first of its devices only."""
    assert isinstance(request, ToDevice)
    outgoing = await transaction.get(OUTBOX, request.transaction_id)
    if outgoing is not None:
        rest = dict(list(outgoing.messages.items())[1:])
        if rest:
            transaction.put(OUTBOX, request.transaction_id, msgspec.structs.replace(outgoing, messages=rest))
        else:
            transaction.delete(OUTBOX, request.transaction_id)


def test_a_machine_that_settles_one_of_the_keys_of_a_request_diverges(
    graph_of_one_request: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Break([(outbox, "sent", _settle_the_first)], r"store\.outbox")
    broken.must_diverge(monkeypatch, graph_of_one_request, SHARING, MOST_STEPS)


# Properties

D1, D2 = map(ModelValue, ("d1", "d2"))


def key(to: ModelValue, session: int, since: int) -> Value:
    return record(to=to, session=session, **{"from": since})


def message(session: int, index: int, *to: ModelValue) -> Value:
    return record(session=session, index=index, to=frozenset(to))


RIGHT: dict[str, Value] = {
    "session": record(number=2, index=1, shared=function({D1: 0})),
    "outbox": frozenset({frozenset({key(D1, 2, 0)})}),
}
ARRIVED = frozenset({key(D1, 1, 0), key(D2, 1, 1)})
MESSAGES = (message(1, 0, D1), message(1, 1, D1, D2), message(2, 0, D1))


def sharing_state(
    *, arrived: frozenset[Value] = ARRIVED, messages: tuple[Value, ...] = MESSAGES, **store: Value
) -> State:
    return {"store": record(**(RIGHT | store)), "arrived": arrived, "messages": messages}


def test_what_is_right_is_accepted() -> None:
    state = sharing_state()
    assert [holds(state, state) for holds in SHARING.properties.values()] == [None, None, None]


NOTHING = ModelValue("Nothing")
WRONG = {
    "an index is used twice": (
        sharing_state(messages=(*MESSAGES, message(1, 1, D1, D2))),
        "NoRatchetReuse",
        "1 of the session 1 was encrypted twice",
    ),
    "a key is not sent": (
        sharing_state(outbox=frozenset(), messages=()),
        "NothingLost",
        "d1 counts as having the key of the session 2",
    ),
    "no session is stored": (sharing_state(session=NOTHING), "NothingLost", "no session is stored"),
    "a later session is not stored": (
        sharing_state(arrived=ARRIVED | {key(D1, 3, 0)}),
        "NothingLost",
        "its session is not stored",
    ),
    "a message can't be read": (
        sharing_state(messages=(*MESSAGES, message(2, 1, D1, D2))),
        "NothingLost",
        "d2 can't read",
    ),
    "a message is read by another": (
        sharing_state(arrived=ARRIVED | {key(D2, 1, 0)}),
        "LeftCantRead",
        "d2 can read",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_reported(wrong: str) -> None:
    state, violated, told = WRONG[wrong]
    found = {name: detail for name, holds in SHARING.properties.items() if (detail := holds(state, state)) is not None}
    assert found.keys() == {violated}
    assert told in found[violated]
