"""The machine's faults in Olm sessions, rooms, verifications, requests between the user's devices, and the backup."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from checking.machine_replay.homeserver import Json
from checking.traced_faults.fault import OptionalParts, TracedFault
from checking.traced_faults.machine_scene import BOB, MEMBERS, PHONE, ROOM, TABLET, ProcessScene, scenario_of

_MADE: Final = "`based_on` and `made`"
_FIELDS: Final = {_MADE: frozenset({"based_on", "made"}), "`mark`": frozenset({"mark"})}


def _send_before_persist(scene: ProcessScene) -> None:
    scene.app.say("hello")
    scene.extension.say("hello")


def _shared_then_invalidated(scene: ProcessScene) -> None:
    scene.app.do("share", ROOM, MEMBERS)


def _session_before_payload(scene: ProcessScene) -> None:
    scene.bob.say("hello")
    scene.app.do("sync")


def _unreadable_message(scene: ProcessScene) -> None:
    """Let the app receive a message that the session with Bob can't decrypt."""
    scene.greet()
    scene.bob.do("give_again", ROOM, *PHONE)
    scene.damage_last_message(PHONE)
    scene.app.do("sync")


def _unreadable_message_then_other_process(scene: ProcessScene) -> None:
    _unreadable_message(scene)
    scene.extension.do("send")


def _unwedge_races_itself(scene: ProcessScene) -> None:
    _unreadable_message(scene)
    claims = [*scene.app.requests(), *scene.extension.requests()]
    scene.app.do("answer", claims[0])


def _shared_set_survives_unwedging(scene: ProcessScene) -> None:
    _unreadable_message(scene)
    scene.app.do("send")
    scene.extension.say("hello")


def _better_key_lost_in_batch(scene: ProcessScene) -> None:
    scene.bob.say("hello")
    scene.bob.do("give_again", ROOM, *PHONE)
    scene.app.do("sync")


def _replay_accepted(scene: ProcessScene) -> None:
    event = scene.bob.say("hello")
    scene.app.do("sync")
    scene.app.do("read", ROOM, event)
    scene.extension.do("read", ROOM, event | {"event_id": "$again"})


def _verification_interrupted(scene: ProcessScene) -> None:
    tablet = scene.tablet()
    scene.app.do("verify", *TABLET)
    scene.app.do("send")
    tablet.do("sync")
    scene.extension.close()
    scene.app.do("sync")


def _secret_sent_twice(scene: ProcessScene) -> None:
    scene.app.do("bootstrap")
    tablet = scene.tablet()
    tablet.do("ask_for_secret", "m.cross_signing.master")
    scene.app.do("sync", "one")
    scene.extension.do("sync", "two")
    for process in (scene.app, scene.app, scene.extension):  # the first time, the app claims a one-time key
        for request in process.requests():  # the list is taken once: with the fault, requests never run out
            process.do("answer", request)


def _create_backup(scene: ProcessScene) -> Json:
    return msgspec.convert(scene.app.do("create_backup"), Json)


def _backup_flag_race(scene: ProcessScene) -> None:
    scene.app.do("answer", _create_backup(scene))
    scene.bob.do("share", ROOM, [BOB])
    scene.bob.do("speak", ROOM, [BOB], "hello")
    scene.bob.say("hello")
    scene.app.do("sync")
    uploads = scene.app.requests()
    scene.extension.do("import_keys", scene.bob.do("export_keys"))
    for upload in uploads:
        scene.app.do("answer", upload)


def _two_keys_one_version(scene: ProcessScene) -> None:
    first = _create_backup(scene)
    scene.extension.do("turn_backup_off")
    scene.extension.do("create_backup")
    scene.app.do("answer", first)


def _backup_off_after_invalidation(scene: ProcessScene) -> None:
    scene.app.do("answer", _create_backup(scene))
    scene.extension.close()
    scene.extension = scene.process("extension")


ACTIONS: Final[Mapping[str, tuple[Callable[[ProcessScene], None], str]]] = {
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
"""By the name of the fault: the function that drives the processes, and the optional fields and steps of its traces."""


def exchange_faults() -> Sequence[TracedFault]:
    """Return the faults of this module."""
    return [
        TracedFault(name, scenario_of(name, act), _optional(parts.split())) for name, (act, parts) in ACTIONS.items()
    ]


def _optional(names: Sequence[str]) -> OptionalParts:
    fields = {title: named for title, named in _FIELDS.items() if named & {*names}}
    return OptionalParts(fields, tuple(name for name in names if name not in {"made", "mark"}))
