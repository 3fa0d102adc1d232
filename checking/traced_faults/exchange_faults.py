"""Faults of what a device exchanges with others: over Olm, in rooms, with its user's devices, and with the backup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from checking.machine_replay.homeserver import Json
from checking.traced_faults.fault import Optional, TracedFault
from checking.traced_faults.machine_scene import BOB, MEMBERS, PHONE, ROOM, TABLET, Stage, scene_of

_MADE: Final = "`based_on` and `made`"
_FIELDS: Final = {_MADE: frozenset({"based_on", "made"}), "`mark`": frozenset({"mark"})}


def _send_before_persist(on: Stage) -> None:
    on.app.say("hello")
    on.extension.say("hello")


def _shared_then_invalidated(on: Stage) -> None:
    on.app.do("share", ROOM, MEMBERS)


def _session_before_payload(on: Stage) -> None:
    on.bob.say("hello")
    on.app.do("sync")


def _unreadable_message(on: Stage) -> None:
    """Let a message come that the session with Bob can't read."""
    on.greet()
    on.bob.do("give_again", ROOM, *PHONE)
    on.damage_last_message(PHONE)
    on.app.do("sync")


def _unreadable_message_then_other_process(on: Stage) -> None:
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


PLAYS: Final[Mapping[str, tuple[Callable[[Stage], None], str]]] = {
    "backup-flag-race": (_backup_flag_race, "made request answer"),
    "backup-off-after-invalidation": (_backup_off_after_invalidation, "made backup open_machine"),
    "better-key-lost-in-batch": (_better_key_lost_in_batch, "made room_key receive"),
    "failed-decrypt-mutates": (_unreadable_message_then_other_process, "made mark decrypt_olm receive"),
    "replay-accepted": (_replay_accepted, "made decrypt_megolm"),
    "secret-sent-twice": (_secret_sent_twice, "made give receive send"),
    "send-before-persist": (_send_before_persist, "made encrypt_megolm share"),
    "session-before-payload": (_session_before_payload, "made batch receive"),
    "shared-set-survives-unwedging": (
        _shared_set_survives_unwedging,
        "made claim decrypt_olm encrypt_megolm encrypt_olm make_session share",
    ),
    "shared-then-invalidated": (_shared_then_invalidated, "made share room_key send"),
    "two-keys-one-version": (_two_keys_one_version, "made answer backup"),
    "unwedge-races-itself": (_unwedge_races_itself, "made claim request make_session"),
    "verification-interrupted": (_verification_interrupted, "made verification"),
    "wedged-mark-in-memory": (_unreadable_message_then_other_process, "made mark decrypt_olm open_machine receive"),
}
"""By the name of the fault: what the processes do so that it shows, and the optional fields and steps of that."""


def exchange_faults() -> Sequence[TracedFault]:
    """Return these faults."""
    return [TracedFault(name, scene_of(name, play), _optional(about.split())) for name, (play, about) in PLAYS.items()]


def _optional(names: Sequence[str]) -> Optional:
    fields = {title: named for title, named in _FIELDS.items() if named & {*names}}
    return Optional(fields, tuple(name for name in names if name not in {"made", "mark"}))
