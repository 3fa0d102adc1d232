"""Faults of what a device exchanges with others: over Olm, in rooms, with its user's devices, and with the backup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from checking.machine_replay.homeserver import Json
from checking.traced_faults.fault import Optional, TracedFault
from checking.traced_faults.machine_scene import BOB, MEMBERS, PHONE, ROOM, TABLET, Stage, scene_of

OPTIONAL: Final = Optional(
    {
        "`based_on` and `made`": frozenset({"based_on", "made"}),
        "`mark`": frozenset({"mark"}),
    },
    (
        *("answer", "backup", "batch", "claim", "decrypt_megolm", "decrypt_olm", "encrypt_megolm", "encrypt_olm"),
        *("give", "make_session", "receive", "request", "room_key", "share", "verification"),
    ),
)


def _send_before_persist(on: Stage) -> None:
    on.app.say("hello")
    on.extension.say("hello")


def _shared_then_invalidated(on: Stage) -> None:
    on.app.do("share", ROOM, MEMBERS)


def _session_before_payload(on: Stage) -> None:
    on.bob.say("hello")
    on.app.do("sync")


def _unreadable_message(on: Stage) -> None:
    """Let a message come that the session with Bob can't read: the first in which his ratchet has moved on."""
    on.app.say("hello")
    on.bob.do("sync")
    on.bob.say("hello")
    on.damage_last_message(PHONE)
    on.app.do("sync")


def _failed_decrypt_mutates(on: Stage) -> None:
    _unreadable_message(on)
    on.extension.do("send")


def _wedged_mark_in_memory(on: Stage) -> None:
    _unreadable_message(on)
    on.extension.do("send")


def _unwedge_races_itself(on: Stage) -> None:
    _unreadable_message(on)
    claims = [*on.app.requests(), *on.extension.requests()]
    on.app.do("answer", claims[0])


def _shared_set_survives_unwedging(on: Stage) -> None:
    _unreadable_message(on)
    on.app.do("send")
    on.extension.say("hello")


def _better_key_lost_in_batch(on: Stage) -> None:
    on.bob.say("hello")
    on.bob.do("give_again", ROOM, *PHONE)
    on.app.do("sync")


def _replay_accepted(on: Stage) -> None:
    event = on.bob.say("hello")
    on.app.do("sync")
    on.app.do("read", ROOM, event)
    on.extension.do("read", ROOM, event | {"event_id": "$again"})


def _verification_interrupted(on: Stage) -> None:
    tablet = on.tablet()
    on.app.do("verify", *TABLET)
    on.app.do("send")
    tablet.do("sync")
    on.extension.close()
    on.app.do("sync")


def _secret_sent_twice(on: Stage) -> None:
    on.app.do("bootstrap")
    tablet = on.tablet()
    tablet.do("ask_for_secret", "m.cross_signing.master")
    on.app.do("sync", "one")
    on.extension.do("sync", "two")
    for process in (on.app, on.app, on.extension):  # the first time it claims a key
        for request in process.requests():  # with the fault, there are always more
            process.do("answer", request)


def _create_backup(on: Stage) -> Json:
    return msgspec.convert(on.app.do("create_backup"), Json)


def _backup_flag_race(on: Stage) -> None:
    on.app.do("answer", _create_backup(on))
    on.bob.do("share", ROOM, [BOB])
    on.bob.do("speak", ROOM, [BOB], "hello")
    on.bob.say("hello")
    on.app.do("sync")
    uploads = on.app.requests()
    on.extension.do("import_keys", on.bob.do("export_keys"))
    for upload in uploads:
        on.app.do("answer", upload)


def _two_keys_one_version(on: Stage) -> None:
    first = _create_backup(on)
    on.extension.do("turn_backup_off")
    on.extension.do("create_backup")
    on.app.do("answer", first)


def _backup_off_after_invalidation(on: Stage) -> None:
    on.app.do("answer", _create_backup(on))
    on.extension.close()
    on.extension = on.process("extension")


PLAYS: Final[Mapping[str, Callable[[Stage], None]]] = {
    "backup-flag-race": _backup_flag_race,
    "backup-off-after-invalidation": _backup_off_after_invalidation,
    "better-key-lost-in-batch": _better_key_lost_in_batch,
    "failed-decrypt-mutates": _failed_decrypt_mutates,
    "replay-accepted": _replay_accepted,
    "secret-sent-twice": _secret_sent_twice,
    "send-before-persist": _send_before_persist,
    "session-before-payload": _session_before_payload,
    "shared-set-survives-unwedging": _shared_set_survives_unwedging,
    "shared-then-invalidated": _shared_then_invalidated,
    "two-keys-one-version": _two_keys_one_version,
    "unwedge-races-itself": _unwedge_races_itself,
    "verification-interrupted": _verification_interrupted,
    "wedged-mark-in-memory": _wedged_mark_in_memory,
}
"""What the processes do, by the name of the fault that shows by it."""


def exchange_faults() -> Sequence[TracedFault]:
    """Return these faults."""
    return [TracedFault(name, scene_of(name, play), OPTIONAL) for name, play in PLAYS.items()]
