"""Make room keys of another device, and read them from a backup."""

from __future__ import annotations

from typing import Final

import msgspec

from checking.machine_replay.homeserver import Json
from unwedged.machine.exports import ExportedSession
from unwedged.machine.identifiers import MEGOLM, Curve25519Key, Ed25519Key, GroupSessionName, RoomId
from unwedged.machine.ratchets import BackupDecryption, BackupMessage, InboundGroup, OutboundGroup

_SENDER_KEY: Final = Curve25519Key("A" * 43)
_SIGNING_KEY: Final = Ed25519Key("B" * 43)


class RoomKey:
    """A room key of another device, which can be exported from any index on."""

    def __init__(self, room: str = "!room:example.org") -> None:
        """Make a room key of a room."""
        made = OutboundGroup()
        self.name = GroupSessionName(RoomId(room), made.session_id)
        self.outbound = made
        self._inbound = InboundGroup.from_session_key(made.session_key)

    def exported(self, index: int = 0) -> ExportedSession:
        """Return the room key as another device exports it, from a message index on."""
        key = self._inbound.exported_at(index)
        assert key is not None
        names = self.name.room_id, _SENDER_KEY, self.name.session_id
        return ExportedSession(MEGOLM, *names, key, {"ed25519": _SIGNING_KEY}, (), shared_history=False)


def first_index(decryption: BackupDecryption, data: Json) -> int:
    """Return the first message index of a room key in a backup. ``decryption`` has the key of the backup."""
    message = msgspec.convert(data["session_data"], BackupMessage)
    clear = msgspec.json.decode(decryption.decrypt(message), type=Json)
    session = InboundGroup.from_exported(str(clear["session_key"]))
    assert session.first_index == data["first_message_index"]
    return session.first_index
