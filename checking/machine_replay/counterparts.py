"""List the counterparts of the replayed models, by the module that TLC checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from checking.machine_replay.backup import BackupOfRoomKeys
from checking.machine_replay.counterpart import Counterpart
from checking.machine_replay.gossip import Gossip
from checking.machine_replay.inbox import Inbox
from checking.machine_replay.keys import Keys
from checking.machine_replay.lists import Lists
from checking.machine_replay.sessions import Sessions
from checking.machine_replay.sharing import Sharing
from checking.machine_replay.verification import Verification

COUNTERPARTS: Final[Mapping[str, type[Counterpart]]] = {
    "MCBackup.tla": BackupOfRoomKeys,
    "MCInbox.tla": Inbox,
    "MCGossip.tla": Gossip,
    "MCKeys.tla": Keys,
    "MCLists.tla": Lists,
    "MCSessions.tla": Sessions,
    "MCSharing.tla": Sharing,
    "MCVerification.tla": Verification,
}


def is_replayed(specification: str, slug: str, violated: str) -> bool:
    """Return whether a fault can be injected into the machine, and its violation can be observed there."""
    kind = COUNTERPARTS.get(specification)
    return kind is not None and slug in kind.faults and (violated in kind.properties or violated in kind.wanted)


def faults_of(specification: str) -> frozenset[str]:
    """Return the names of a module's faults that can be injected into the machine."""
    return frozenset(COUNTERPARTS[specification].faults) if specification in COUNTERPARTS else frozenset()
