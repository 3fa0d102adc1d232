"""The fault of the module Sessions that violates a safety property, injected into the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from checking.replay.substitutions import Substitution
from unwedged.machine import olm
from unwedged.machine.records import PEER, WANTED_SESSION
from unwedged.machine.requests import KeysClaim
from unwedged.store import Transaction

_hand_out_claim = olm.hand_out_claim


def _unwedge_races_itself() -> Sequence[Substitution]:
    """A claim is handed out, and its time is noted by its answer only."""

    async def hand_out_claim(transaction: Transaction, now_ms: int) -> KeysClaim | None:
        times = {}
        for name in await transaction.keys(WANTED_SESSION):
            mark, peer = await transaction.get(WANTED_SESSION, name), await transaction.get(PEER, name)
            times[name] = 0 if mark is None else mark.not_before_ms, 0 if peer is None else peer.unwedged_ms
        claim = await _hand_out_claim(transaction, now_ms)
        for name, (not_before_ms, unwedged_ms) in times.items():
            mark, peer = await transaction.get(WANTED_SESSION, name), await transaction.get(PEER, name)
            assert mark is not None  # the device is on its list
            assert peer is not None  # there is a session
            transaction.put(WANTED_SESSION, name, msgspec.structs.replace(mark, not_before_ms=not_before_ms))
            peer.unwedged_ms = unwedged_ms
            transaction.put(PEER, name, peer)
        return claim

    return [(olm, "hand_out_claim", hand_out_claim)]


FAULTS: Final[Mapping[str, Callable[[], Sequence[Substitution]]]] = {
    "unwedge-races-itself": _unwedge_races_itself,
}
