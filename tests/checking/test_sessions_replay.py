"""The replay of the module Sessions notices a broken machine."""

from __future__ import annotations

import msgspec
import pytest

from checking.machine_replay.counterparts import COUNTERPARTS
from checking.models.manifest import Manifest
from checking.tlc.graph import Graph
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import State, record
from tests.checking.machine_breaks import Break, graph_of
from unwedged.machine import olm
from unwedged.machine.identifiers import JsonObject, PeerName
from unwedged.machine.records import PEER, WANTED_SESSION
from unwedged.machine.requests import KeysClaim
from unwedged.store import Transaction

SESSIONS = COUNTERPARTS["MCSessions.tla"]
MOST_STEPS = 3_000
"""The replay notices each break of the machine within this number of steps."""


@pytest.fixture(scope="module")
def graph(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplaySessionsUnsent", tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def graph_of_two_breaks(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplaySessionsBrokenTwice", tmp_path_factory.mktemp("twice"))


# Breaks that a replay must notice

sound_answer = olm.take_claim_answer
sound_note = olm.note_wedged


async def _mark_nothing(transaction: Transaction, name: PeerName) -> None:
    del transaction, name


async def _mark_anew(transaction: Transaction, name: PeerName) -> None:
    """Forget the time at which a claim was handed out."""
    await sound_note(transaction, name)
    mark = await transaction.get(WANTED_SESSION, name)
    if mark is not None:
        transaction.put(WANTED_SESSION, name, msgspec.structs.replace(mark, not_before_ms=0))


async def _take_any(transaction: Transaction, request: KeysClaim, response: JsonObject, now_ms: int) -> None:
    """Accept the response to an older claim too, as long as there is a mark."""
    wanted = []
    for claimed in request.wanted:
        mark = await transaction.get(WANTED_SESSION, PeerName(claimed.device.user_id, claimed.curve25519))
        wanted.append(claimed if mark is None else claimed._replace(number=mark.number))
    await sound_answer(transaction, KeysClaim(tuple(wanted)), response, now_ms)


async def _take_without_time(transaction: Transaction, request: KeysClaim, response: JsonObject, now_ms: int) -> None:
    name = PeerName(request.wanted[0].device.user_id, request.wanted[0].curve25519)
    before = await transaction.get(PEER, name)
    assert before is not None
    unwedged_ms = before.unwedged_ms
    await sound_answer(transaction, request, response, now_ms)
    peer = await transaction.get(PEER, name)
    assert peer is not None
    peer.unwedged_ms = unwedged_ms
    transaction.put(PEER, name, peer)


async def _replace_once(transaction: Transaction, request: KeysClaim, response: JsonObject, now_ms: int) -> None:
    """Don't replace a session that has replaced another one."""
    peer = await transaction.get(PEER, PeerName(request.wanted[0].device.user_id, request.wanted[0].curve25519))
    if peer is None or peer.generation < 2:
        await sound_answer(transaction, request, response, now_ms)


BREAKS = {
    "no mark is made": Break([(olm, "note_wedged", _mark_nothing)], r"store\.(unwedge|marks)"),
    "another message lets a claim be handed out again": Break(
        [(olm, "note_wedged", _mark_anew)], r"does not allow the step HandOutClaim"
    ),
    "a late answer counts": Break([(olm, "take_claim_answer", _take_any)], r"store\.(generation|unwedge|outbox)"),
    "a key that was shared stays so": Break(
        SESSIONS.faults["shared-set-survives-unwedging"](), r"store\.shared: the model has 0, the machine 1"
    ),
    "the time of a new session is not noted": Break(
        [(olm, "take_claim_answer", _take_without_time)], r"store\.triedLately: the model has TRUE"
    ),
    "unwedge-races-itself": Break(SESSIONS.faults["unwedge-races-itself"](), r"store\.triedLately"),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_machine_diverges(graph: Graph, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    BREAKS[broken].must_diverge(monkeypatch, graph, SESSIONS, MOST_STEPS)


def test_a_machine_that_replaces_a_session_only_once_diverges(
    graph_of_two_breaks: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Break([(olm, "take_claim_answer", _replace_once)], r"store\.(generation|unwedge)")
    broken.must_diverge(monkeypatch, graph_of_two_breaks, SESSIONS, MOST_STEPS)


# Properties


def sessions_state(*, claims: int, generation: int) -> State:
    return {"store": record(generation=generation, marks=1), "claims": claims}


def test_what_is_right_is_accepted() -> None:
    state = sessions_state(claims=1, generation=2)
    assert [holds(state, state) for holds in SESSIONS.properties.values()] == [None, None]


@pytest.mark.parametrize(
    ("claims", "generation", "violated", "told"),
    [(2, 2, "KeysBounded", "2 keys were claimed"), (1, 3, "ExactlyOnce", "1 marks were settled by 2 new sessions")],
)
def test_what_is_wrong_is_reported(claims: int, generation: int, violated: str, told: str) -> None:
    state = sessions_state(claims=claims, generation=generation)
    found = {name: wrong for name, holds in SESSIONS.properties.items() if (wrong := holds(state, state)) is not None}
    assert found.keys() == {violated}
    assert told in found[violated]
