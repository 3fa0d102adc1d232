"""Faults of what a device tells its homeserver and is told by it: its account and keys, syncs, and device lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, cast

from checking.machine_replay.homeserver import Device, Json
from checking.traced_faults.fault import Optional, TracedFault
from checking.traced_faults.machine_scene import (
    BOB,
    LAPTOP,
    MEMBERS,
    PHONE,
    ROOM,
    TRACES,
    MachineProcess,
    Stage,
    scene_of,
)

_BY_COMMIT: Final = {"`based_on` and `made`": frozenset({"based_on", "made"})}
OF_KEYS: Final = Optional(
    {
        **_BY_COMMIT,
        "`fallback`": frozenset({"fallback"}),
        "`fallback_key`": frozenset({"fallback_key"}),
        "`kept_ms`": frozenset({"kept_ms"}),
        "`keys`": frozenset({"keys"}),
        "`one_time_keys`": frozenset({"one_time_keys"}),
        "`peer`": frozenset({"peer"}),
        "`serial`": frozenset({"serial"}),
    },
    ("abandon", "answer", "batch", "decrypt_olm", "offer", "open_machine", "request"),
)
OF_SYNCS: Final = Optional({**_BY_COMMIT, "`message`": frozenset({"message"})}, ("batch", "decrypt_olm", "receive"))
OF_LISTS: Final = Optional(
    {
        **_BY_COMMIT,
        "`changed`": frozenset({"changed"}),
        "`lists`": frozenset({"lists"}),
        "`marks`": frozenset({"marks"}),
    },
    ("answer", "batch", "request"),
)
OF_ROOM_KEYS: Final = Optional(_BY_COMMIT, ("encrypt_megolm", "encrypt_olm", "send", "share"))
_ROOT: Final = "/_matrix/client/v3"


def _offer(process: MachineProcess) -> Json | None:
    """Let a process offer keys; return its request, if it has one."""
    uploads = [request for request in process.requests() if request["type"] == "KeysUpload"]
    return uploads[0] if uploads else None


def _offered(process: MachineProcess) -> Json:
    upload = _offer(process)
    assert upload is not None  # as it is the first
    return upload


def _asked_lists(process: MachineProcess) -> tuple[Json, object]:
    """Let a process ask for device lists; return its request and the answer, which has not reached the machine."""
    query = next(request for request in process.requests() if request["type"] == "KeysQuery")
    return query, process.do("post", query)


def _upload(process: MachineProcess) -> None:
    """Let a process offer keys, and learn what became of them."""
    process.do("answer", _offered(process))


def _sliding(process: MachineProcess) -> dict[str, Json]:
    """Let a process ask for a sliding sync; return what it asked with and the response."""
    return cast("dict[str, Json]", process.do("ask", "extension", True))  # noqa: FBT003 (as JSON has it)


def _change_devices(on: Stage, name: str) -> None:
    """Let Bob have one device more."""
    device = Device(BOB, name)
    on.server.sign_in(device)
    MachineProcess(on, name.lower(), device, None).do("send")


def account_fork(folder: Path, *, faulty: bool) -> tuple[Path, ...]:
    """Let two processes look for an account at once, before either makes one."""
    with ExitStack() as stack:
        on = Stage(stack, folder, "account-fork-at-creation" if faulty else None)
        if faulty:  # else neither stops in between
            on.app.go_on()
            on.extension.go_on()
        for process in (on.app, on.extension):
            process.do("requests")
            process.close()
    return tuple(folder / name for name in TRACES)


def _upload_before_persist(on: Stage) -> None:
    on.app.do("post", _offered(on.app))


def _upload_repeated(on: Stage) -> None:
    on.app.do("post", _offered(on.app))  # and its answer gets lost
    _offer(on.app)


def _one_time_exchange_frozen(on: Stage) -> None:
    upload = _offered(on.app)
    answer = on.app.do("post", upload)
    _offer(on.extension)
    on.app.do("mark_sent", upload, answer)


def _stale_count(on: Stage) -> None:
    asked = on.app.do("ask")
    _upload(on.extension)
    on.app.do("receive", asked)
    _offer(on.app)


def _count_absent_two_meanings(on: Stage) -> None:
    _upload(on.app)
    on.extension.do("receive", _sliding(on.extension))
    asked = _sliding(on.extension)
    extensions = cast("dict[str, Json]", asked["response"]["extensions"])
    del extensions["e2ee"]["device_one_time_keys_count"]  # as it may, since it has not changed
    on.extension.do("receive", asked)
    _offer(on.extension)


def _publish_marks_too_many(on: Stage) -> None:
    first = _offered(on.app)
    on.extension.do("mark_failed", first)
    on.extension.do("sync")
    _offer(on.extension)
    on.app.do("answer", first)


def _upload_again_same_id(on: Stage) -> None:
    on.app.do("mark_failed", _offered(on.app))
    on.app.do("sync")
    _offer(on.app)


def _fallback_cycled_early(on: Stage) -> None:
    _upload(on.app)
    claim: Json = {"one_time_keys": {PHONE.user: {PHONE.device: "signed_curve25519"}}}
    for _ in range(51):  # all one-time keys, and the fallback key
        on.server.request(LAPTOP, "POST", f"{_ROOT}/keys/claim", claim)
    on.extension.do("sync")
    _offer(on.extension)


def _key_dropped_by_bad_message(on: Stage) -> None:
    on.bob.do("share", ROOM, MEMBERS)
    content = cast("dict[str, dict[str, Json]]", on.server.waiting(PHONE)[-1]["content"])
    for ciphertext in content["ciphertext"].values():
        ciphertext["body"] = f"{ciphertext['body']}"[:-4] + "AAAA"  # the end of its MAC
    on.app.do("sync")


def _stale_sync_response(on: Stage) -> None:
    on.bob.do("share", ROOM, MEMBERS)
    asked = on.app.do("ask")
    on.app.do("receive", asked)
    on.extension.do("receive", asked)


def _hash_after_failure(on: Stage) -> None:
    on.bob.do("share", ROOM, MEMBERS)
    on.app.do("sync")
    on.extension.do("receive", _sliding(on.extension))


def _message_in_a_sync(on: Stage) -> None:
    on.app.do("sync")
    on.bob.do("share", ROOM, MEMBERS)
    on.app.do("sync")


def _device_flag_lost(on: Stage) -> None:
    on.app.do("sync")
    on.meet()
    _change_devices(on, "TABLET")
    on.app.do("sync")


def _posless_sync_drops_lists(on: Stage) -> None:
    on.app.do("sync")
    on.meet()
    on.extension.do("receive", _sliding(on.extension))


def _late_response_wins(on: Stage) -> None:
    _change_devices(on, "TABLET")
    on.app.do("sync")
    late = _asked_lists(on.app)
    _change_devices(on, "WATCH")
    on.extension.do("sync")
    on.extension.do("mark_sent", *_asked_lists(on.extension))
    on.app.do("mark_sent", *late)


def _query_clears_newer_flag(on: Stage) -> None:
    _change_devices(on, "TABLET")
    on.app.do("sync")
    late = _asked_lists(on.app)
    _change_devices(on, "WATCH")
    on.extension.do("sync")
    on.app.do("mark_sent", *late)


def _requests_in_memory(on: Stage) -> None:
    on.app.do("share", ROOM, MEMBERS)


def _save_error_ignored(on: Stage) -> None:
    on.app.say("hello")


def _of(
    optional: Optional, plays: Mapping[str, Callable[[Stage], None]], *, begins_anew: bool = False
) -> Sequence[TracedFault]:
    return [TracedFault(name, scene_of(name, play, begins_anew=begins_anew), optional) for name, play in plays.items()]


def device_faults() -> Sequence[TracedFault]:
    """Return these faults."""
    faults = [
        TracedFault("account-fork-at-creation", account_fork, OF_KEYS),
        *_of(
            OF_KEYS,
            {
                "count-absent-two-meanings": _count_absent_two_meanings,
                "fallback-cycled-early": _fallback_cycled_early,
                "one-time-exchange-frozen": _one_time_exchange_frozen,
                "publish-marks-too-many": _publish_marks_too_many,
                "stale-count": _stale_count,
                "upload-again-same-id": _upload_again_same_id,
                "upload-before-persist": _upload_before_persist,
                "upload-repeated": _upload_repeated,
            },
            begins_anew=True,
        ),
        *_of(OF_KEYS, {"key-dropped-by-bad-message": _key_dropped_by_bad_message}),
        *_of(
            OF_SYNCS,
            {
                "acknowledged-before-processed": _message_in_a_sync,
                "hash-after-failure": _hash_after_failure,
                "stale-sync-response": _stale_sync_response,
                "two-commits-per-sync": _message_in_a_sync,
            },
        ),
        *_of(
            OF_LISTS,
            {"device-flag-lost": _device_flag_lost, "posless-sync-drops-lists": _posless_sync_drops_lists},
            begins_anew=True,
        ),
        *_of(
            OF_LISTS,
            {"late-response-wins": _late_response_wins, "query-clears-newer-flag": _query_clears_newer_flag},
        ),
        *_of(OF_ROOM_KEYS, {"requests-in-memory": _requests_in_memory, "save-error-ignored": _save_error_ignored}),
    ]
    return sorted(faults, key=lambda fault: fault.name)
