"""The replay of the module Gossip notices a broken machine."""

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
from unwedged.machine import asking, gossip, identities, key_requests, outbox, secrets
from unwedged.machine.identifiers import DeviceId, JsonObject, RequestId, UserId
from unwedged.machine.olm import OlmEvent
from unwedged.machine.records import ANSWERED, OUTBOX, Asked, KnownDevice, LocalTrust
from unwedged.machine.requests import RoomMessage, ToDevice
from unwedged.store import Transaction

GOSSIP = COUNTERPARTS["MCGossip.tla"]
MOST_STEPS = 2_500
"""The replay notices each break of the machine within this number of steps."""
ANSWERING = "ReplayGossip"
REPEATED = "ReplayGossipRepeated"
ASKING = "ReplayGossipAsking"
UNASKED = "ReplayGossipUnasked"
BOTH_WAYS = "ReplayGossipBothWays"
TWO_ANSWERS = "ReplayGossipOfTwoAnswers"


@pytest.fixture(scope="module")
def graphs(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Graph]:
    names = (ANSWERING, REPEATED, ASKING, UNASKED, BOTH_WAYS, TWO_ANSWERS)
    return {name: graph_of(toolbox, manifest, name, tmp_path_factory.mktemp("graph")) for name in names}


# Breaks that a replay must notice

sound_receive = gossip.receive_request
sound_settle = asking.settle
sound_send = asking.send_request
sound_must = asking.must_be_asked


async def _hear_no_cancellation(transaction: Transaction, event_type: str, sender: UserId, content: JsonObject) -> None:
    if content["action"] != asking.CANCELLATION:
        await sound_receive(transaction, event_type, sender, content)


async def _forget_what_was_answered(
    transaction: Transaction, event_type: str, sender: UserId, content: JsonObject
) -> None:
    """Treat a repeated request as a new one."""
    device_id = DeviceId(str(content["requesting_device_id"]))
    if content["action"] == asking.REQUEST and await transaction.get(ANSWERED, device_id) is not None:
        transaction.delete(ANSWERED, device_id)
    await sound_receive(transaction, event_type, sender, content)


async def _settle_at_once(
    transaction: Transaction, request_id: RequestId, asked: Asked, by: DeviceId | None = None
) -> None:
    """Let a cancellation overtake its request."""
    await sound_settle(transaction, request_id, msgspec.structs.replace(asked, sent=()), by)


async def _settle_unsaid(
    transaction: Transaction, request_id: RequestId, asked: Asked, by: DeviceId | None = None
) -> None:
    """Send no cancellation when a request is over."""
    await sound_settle(transaction, request_id, msgspec.structs.replace(asked, devices={}), by)


async def _ask_again(
    transaction: Transaction, request_id: RequestId, asked: Asked, verified: Mapping[DeviceId, KnownDevice]
) -> None:
    """Send the request to each device whenever there is anything to send."""
    await sound_send(transaction, request_id, msgspec.structs.replace(asked, devices={}), verified)


async def _ask_the_first(
    transaction: Transaction, request_id: RequestId, asked: Asked, verified: Mapping[DeviceId, KnownDevice]
) -> None:
    """Send no request to a device that is verified later."""
    if not asked.devices:
        await sound_send(transaction, request_id, asked, verified)


async def _settled_by_nobody(transaction: Transaction, asked: Asked | None, event: OlmEvent) -> DeviceId:
    """Send a cancellation even to the device that has answered."""
    await sound_must(transaction, asked, event)
    return DeviceId("nobody")


async def _judge_nobody(
    transaction: Transaction, user_id: UserId, device_id: DeviceId, key: str, trust: LocalTrust
) -> None:
    del transaction, user_id, device_id, key, trust


async def _keep_asking(
    transaction: Transaction, request_id: RequestId, asked: Asked, by: DeviceId | None = None
) -> None:
    """Keep a request open after its answer has arrived."""
    if by is None:
        await sound_settle(transaction, request_id, asked)


async def _settle_all_to_a_device(transaction: Transaction, request: ToDevice | RoomMessage) -> None:
    """Treat one sent request to a device as all pending requests to it."""
    assert isinstance(request, ToDevice)
    for name in await transaction.keys(OUTBOX):
        other = await transaction.get(OUTBOX, name)
        if other is not None and other.messages.keys() == request.messages.keys():
            transaction.delete(OUTBOX, name)


BREAKS = {
    "a secret that has come is asked for still": (
        BOTH_WAYS,
        Break([(secrets, "settle", _keep_asking)], r"store\.asked"),
    ),
    "an answer that was sent settles all to its device": (
        TWO_ANSWERS,
        Break([(outbox, "sent", _settle_all_to_a_device)], r"store\.outbox"),
    ),
    "a cancellation is not heard": (
        ANSWERING,
        Break([(gossip, "receive_request", _hear_no_cancellation)], r"store\.(waiting|answered)"),
    ),
    "what was answered is forgotten": (
        REPEATED,
        Break([(gossip, "receive_request", _forget_what_was_answered)], r"store\.(waiting|answered)"),
    ),
    "a cancellation overtakes its request": (
        UNASKED,
        Break([(asking, "settle", _settle_at_once)], r"does not allow the step OutgoingRequest"),
    ),
    "nobody is told that a request is over": (
        ASKING,
        Break([(asking, "settle", _settle_unsaid), (key_requests, "settle", _settle_unsaid)], r"store\.outbox"),
    ),
    "a device is asked twice": (
        ASKING,
        Break([(asking, "send_request", _ask_again)], r"does not allow the step SendAsk|store\.(asked|outbox)"),
    ),
    "a device that is verified later is not asked": (
        ASKING,
        Break([(asking, "send_request", _ask_the_first)], r"there is no device to ask"),
    ),
    "whoever has answered is told that the request is over": (
        UNASKED,
        Break([(key_requests, "must_be_asked", _settled_by_nobody)], r"store\.outbox"),
    ),
    "trust is not kept": (
        ANSWERING,
        Break([(identities, "set_trust", _judge_nobody)], r"store\.verified"),
    ),
    **{
        slug: (graph, Break(GOSSIP.faults[slug](), told))
        for slug, graph, told in (
            ("secret-sent-twice", REPEATED, r"store|given|does not allow the step AnswerWaiting"),
            ("waiting-in-memory", ANSWERING, r"store\.waiting"),
            ("answered-unverified", ANSWERING, r"does not allow the step AnswerWaiting"),
            ("answer-unasked", UNASKED, r"taken: the model has <<>>"),
            ("answer-from-unverified", UNASKED, r"taken: the model has <<>>"),
            ("cancelled-while-in-flight", UNASKED, r"store\.outbox"),
        )
    },
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_machine_diverges(graphs: Mapping[str, Graph], monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    graph, breaking = BREAKS[broken]
    breaking.must_diverge(monkeypatch, graphs[graph], GOSSIP, MOST_STEPS)


# Properties

D1, PLANTED = map(ModelValue, ("d1", "planted"))
FIRST, THEIRS = record(by=D1, number=1), record(by=PLANTED, number=1)
HOLD = record(number=1, device=D1)
OPEN = record(number=1, of=frozenset({D1}))
OVER = record(type="over", number=1, to=frozenset({D1}))
CANCELLED = record(type="cancellation", request=FIRST)


def answer(number: int, by: ModelValue) -> Value:
    return record(type="answer", number=number, **{"from": by})


def gossip_state(
    *,
    asked: frozenset[Value] = frozenset({FIRST}),
    cancelled: frozenset[Value] = frozenset(),
    answered: frozenset[Value] = frozenset(),
    holds: frozenset[Value] = frozenset(),
    to_us: tuple[Value, ...] = (),
    verified: frozenset[Value] = frozenset(),
    blocked: frozenset[Value] = frozenset(),
    waiting: frozenset[Value] = frozenset({FIRST}),
    ours: frozenset[Value] = frozenset(),
    outbox: frozenset[Value] = frozenset(),
    given: Mapping[Value, Value] | None = None,
    taken: tuple[Value, ...] = (),
) -> State:
    return {
        "peers": record(asked=asked, cancelled=cancelled, answered=answered, holds=holds),
        "server": record(toUs=to_us, delivered=frozenset()),
        "store": record(verified=verified, blocked=blocked, waiting=waiting, asked=ours, outbox=outbox),
        "given": function({FIRST: 0, THEIRS: 0, **(given or {})}),
        "taken": taken,
    }


SENT = frozenset({record(type="answer", request=FIRST)})
RIGHT = {
    "a request waits": (gossip_state(),) * 2,
    "a request is answered": (gossip_state(), gossip_state(waiting=frozenset(), outbox=SENT, given={FIRST: 1})),
    "its cancellation was not heard yet": (
        gossip_state(cancelled=frozenset({FIRST}), to_us=(CANCELLED,)),
        gossip_state(cancelled=frozenset({FIRST}), to_us=(CANCELLED,), outbox=SENT, given={FIRST: 1}),
    ),
    "ours is answered": (
        gossip_state(holds=frozenset({HOLD}), ours=frozenset({OPEN})),
        gossip_state(holds=frozenset({HOLD}), outbox=frozenset({OVER}), taken=(answer(1, D1),)),
    ),
}


@pytest.mark.parametrize("right", RIGHT)
def test_what_is_right_is_accepted(right: str) -> None:
    assert [holds(*RIGHT[right]) for holds in GOSSIP.properties.values()] == [None] * 5


WRONG = {
    "an attacker is answered": (
        gossip_state(),
        gossip_state(given={THEIRS: 1}),
        "NothingGivenAway",
        "the request of planted was answered",
    ),
    "a blocked device is answered": (
        gossip_state(blocked=frozenset({D1})),
        gossip_state(given={FIRST: 1}),
        "NothingGivenAway",
        "the request of d1 was answered",
    ),
    "an attacker's answer is taken": (
        gossip_state(ours=frozenset({OPEN})),
        gossip_state(taken=(answer(1, PLANTED),)),
        "NothingUnasked",
        "not the person's own",
    ),
    "an answer is taken that nobody asked for": (
        gossip_state(ours=frozenset({OPEN})),
        gossip_state(taken=(answer(0, D1),)),
        "NothingUnasked",
        "nobody asked for",
    ),
    "a request is answered twice": (
        gossip_state(given={FIRST: 1}),
        gossip_state(given={FIRST: 2}),
        "ExactlyOnce",
        "answered 2 times",
    ),
    "two answers are taken": (
        gossip_state(ours=frozenset({OPEN}), taken=(answer(1, D1),)),
        gossip_state(taken=(answer(1, D1), answer(1, D1))),
        "ExactlyOnce",
        "two answers",
    ),
    "what was cancelled is answered": (
        gossip_state(cancelled=frozenset({FIRST})),
        gossip_state(cancelled=frozenset({FIRST}), given={FIRST: 1}),
        "NoneAfterCancel",
        "after it was cancelled",
    ),
    "a request is lost": (
        gossip_state(),
        gossip_state(waiting=frozenset()),
        "NothingLost",
        "a request of d1 is lost",
    ),
    "the end of a request is not told": (
        gossip_state(),
        gossip_state(holds=frozenset({HOLD})),
        "NothingLost",
        "never learns that the request 1 is over",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_reported(wrong: str) -> None:
    was, now, violated, told = WRONG[wrong]
    found = {name: detail for name, holds in GOSSIP.properties.items() if (detail := holds(was, now)) is not None}
    assert found.keys() == {violated}
    assert told in found[violated]


def test_everything_has_arrived_when_nothing_waits_any_more() -> None:
    arrived = GOSSIP.wanted["EverythingArrives"]
    assert arrived(gossip_state())  # no device is verified
    assert not arrived(gossip_state(verified=frozenset({D1})))
    assert arrived(gossip_state(verified=frozenset({D1}), answered=frozenset({FIRST})))
    assert arrived(gossip_state(verified=frozenset({D1}), cancelled=frozenset({FIRST})))
    assert not arrived(gossip_state(verified=frozenset({D1}), answered=frozenset({FIRST}), ours=frozenset({OPEN})))
