"""The replay of the module Verification notices a broken machine."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from checking.machine_replay.counterparts import COUNTERPARTS
from checking.machine_replay.verification_messages import accept_of, key_of, mac_of, start_of
from checking.models.manifest import Manifest
from checking.tlc.graph import Graph
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import State, Value, record
from tests.checking.machine_breaks import Break, graph_of
from unwedged.machine import outbox, sas, verification
from unwedged.machine.identifiers import Device, JsonObject, TransactionId
from unwedged.machine.records import Cancellation, Phase, VerificationFlow
from unwedged.machine.sas import Ephemeral, ShortString
from unwedged.machine.verification import Context, FlowStep
from unwedged.store import Transaction

VERIFICATION = COUNTERPARTS["MCVerification.tla"]
MOST_STEPS = 3_000
"""The replay notices each break of the machine within this number of steps."""


@pytest.fixture(scope="module")
def graph(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplayVerificationCancelled", tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def attacked(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplayVerificationAttacked", tmp_path_factory.mktemp("attacked"))


@pytest.fixture(scope="module")
def attacked_twice(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplayVerificationForgedTwice", tmp_path_factory.mktemp("twice"))


# Breaks that a replay must notice

sound_cancel = verification.cancel
sound_ended = verification._ended
sound_receive = verification.receive
sound_receive_mac = verification._receive_mac
sound_receive_start = verification._receive_start
sound_send = outbox.send
sound_start = verification.start_sas


def _send_in_any_order(
    transaction: Transaction,
    event_type: str,
    contents: Mapping[Device, JsonObject],
    after: TransactionId | None = None,
) -> TransactionId:
    del after
    return sound_send(transaction, event_type, contents)


def _receive_again(flow: VerificationFlow, event_type: str, content: JsonObject, context: Context) -> FlowStep:
    """Accept a message even if it has come before."""
    return sound_receive(msgspec.structs.replace(flow, received=()), event_type, content, context)


def _yield_never(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    return FlowStep(flow) if flow.phase is Phase.STARTED else sound_receive_start(flow, content, context)


def _start_again(flow: VerificationFlow, context: Context) -> FlowStep:
    if flow.phase is Phase.STARTED:
        flow = msgspec.structs.replace(flow, phase=Phase.READY)
    return sound_start(flow, context)


def _cancel_without_a_word(flow: VerificationFlow, context: Context) -> FlowStep:
    return FlowStep(sound_cancel(flow, context).flow)


def _drop_early_mac(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    return FlowStep(flow) if flow.phase is Phase.KEYS_EXCHANGED else sound_receive_mac(flow, content, context)


def _keep_the_secret(flow: VerificationFlow, cancellation: Cancellation | None, context: Context) -> VerificationFlow:
    return msgspec.structs.replace(sound_ended(flow, cancellation, context), sas=flow.sas)


def _show_what_the_other_does_not(flow: VerificationFlow, own: Device) -> ShortString | None:
    """Compute the short string in the order from this device to the other, whichever of them started."""
    exchange, device = verification._exchange(flow)
    sides = Ephemeral(own, sas.public_key(exchange.secret)), Ephemeral(device, exchange.their_key)
    return sas.short_string(verification._shared(exchange), *sides, verification._name(flow))


BREAKS = {
    "messages leave in any order": Break([(outbox, "send", _send_in_any_order)], r"could be sent in the wrong order"),
    "a message that comes again is taken again": Break(
        [(verification, "receive", _receive_again)], r"store\.flow\.phase: the model has"
    ),
    "our start counts always": Break(
        [(verification, "_receive_start", _yield_never)], r'store\.flow\.phase: the model has "accepted"'
    ),
    "a comparison begins twice": Break([(verification, "start_sas", _start_again)], r"the machine does StartSas twice"),
    "the peer is not told": Break(
        [(verification, "cancel", _cancel_without_a_word)], r"(store\.outbox|server\.toUs): the model"
    ),
    "a MAC that comes early is lost": Break(
        [(verification, "_receive_mac", _drop_early_mac)], r"(store\.flow|peer)\.mac: the model has"
    ),
    "a secret outlives its flow": Break(
        [(verification, "_ended", _keep_the_secret)], r"still stored after the flow is over"
    ),
    "the ends show different strings": Break(
        [(verification, "short_string", _show_what_the_other_does_not)], r"sees that the short strings differ"
    ),
    **{
        slug: Break(VERIFICATION.faults[slug](), told)
        for slug, told in {
            "trusted-unconfirmed": r"store\.flow\.phase",
            "result-in-second-commit": r"store\.trusted: the model has TRUE",
            "confirmed-twice": r"the machine does ConfirmSas twice",
        }.items()
    },
}
ATTACKS = {
    "commitment-unchecked": Break(VERIFICATION.faults["commitment-unchecked"](), r"(store\.flow|peer)\.phase"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_machine_diverges(graph: Graph, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    BREAKS[broken].must_diverge(monkeypatch, graph, VERIFICATION, MOST_STEPS)


@pytest.mark.parametrize("broken", ATTACKS)
def test_a_machine_that_an_attacker_deceives_diverges(
    attacked: Graph, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    ATTACKS[broken].must_diverge(monkeypatch, attacked, VERIFICATION, MOST_STEPS)


def _keep_the_last_mac(flow: VerificationFlow, content: JsonObject, context: Context) -> FlowStep:
    if flow.phase is Phase.KEYS_EXCHANGED and flow.sas is not None:
        flow = msgspec.structs.replace(flow, sas=msgspec.structs.replace(flow.sas, their_macs=None))
    return sound_receive_mac(flow, content, context)


def test_a_machine_that_lets_an_attacker_try_twice_diverges(
    attacked_twice: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Break([(verification, "_receive_mac", _keep_the_last_mac)], r"store\.flow\.(phase|mac)")
    broken.must_diverge(monkeypatch, attacked_twice, VERIFICATION, MOST_STEPS)


# Properties


def verification_state(
    *,
    phase: str = "done",
    trusted: bool = True,
    outbox: tuple[Value, ...] = (),
    confirmed: frozenset[str] = frozenset({"ours", "peers"}),
    identity: str = "genuine",
    peer: str = "confirmed",
    on_their_way: tuple[Value, ...] = (mac_of("ours", "peers", "ours"),),
    attacked: bool = False,
) -> State:
    return {
        "setting": record(identity=identity),
        "peer": record(phase=peer),
        "server": record(delivered=4, toPeer=on_their_way),
        "store": record(flow=record(phase=phase), trusted=trusted, outbox=outbox, sent=4),
        "people": record(confirmed=confirmed),
        "attacked": attacked,
    }


RIGHT = {
    "a flow that is done": verification_state(),
    "one whose last word is not sent yet": verification_state(
        outbox=(key_of("ours"), mac_of("ours", "peers", "ours")), on_their_way=()
    ),
    "one that goes on": verification_state(phase="accepted", trusted=False, on_their_way=()),
    "one that both have ended": verification_state(peer="done", on_their_way=()),
    "one that an attacker has ended": verification_state(
        phase="cancelled", trusted=False, on_their_way=(), attacked=True
    ),
}


@pytest.mark.parametrize("right", RIGHT)
def test_what_is_right_is_accepted(right: str) -> None:
    state = RIGHT[right]
    assert [holds(state, state) for holds in VERIFICATION.properties.values()] == [None] * 4


WRONG = {
    "trust that nobody has confirmed": (
        verification_state(confirmed=frozenset({"peers"})),
        "TrustOnlyIfConfirmed",
        "one person has not confirmed",
    ),
    "trust in an attacker": (verification_state(identity="fake"), "TrustOnlyIfConfirmed", "an attacker's identity"),
    "an end without trust": (verification_state(trusted=False), "DoneIsTrusted", "is not trusted"),
    "a message that is made twice": (
        verification_state(outbox=(accept_of("ours"), accept_of("ours"))),
        "ExactlyOnce",
        "accept",
    ),
    "a peer that is left alone": (
        verification_state(phase="gone", trusted=False, on_their_way=(start_of("ours"),)),
        "SurvivesInvalidation",
        "no message says so",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_reported(wrong: str) -> None:
    state, violated, told = WRONG[wrong]
    found = {name: it for name, holds in VERIFICATION.properties.items() if (it := holds(state, state)) is not None}
    assert found.keys() == {violated}
    assert told in found[violated]
