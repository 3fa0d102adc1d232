"""The machine's faults between a device and its homeserver: account, one-time keys, syncs, device lists, room keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, cast

from checking.machine_replay.homeserver import Device, Json
from checking.traced_faults.fault import OptionalParts, TracedFault
from checking.traced_faults.machine_scene import (
    BOB,
    LAPTOP,
    MEMBERS,
    PHONE,
    ROOM,
    TRACES,
    MachineProcess,
    ProcessScene,
    scenario_of,
)

_BY_COMMIT: Final = {"`based_on` and `made`": frozenset({"based_on", "made"})}
OF_KEYS: Final = OptionalParts(
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
OF_SYNCS: Final = OptionalParts(
    {**_BY_COMMIT, "`message`": frozenset({"message"})}, ("batch", "decrypt_olm", "receive")
)
OF_LISTS: Final = OptionalParts(
    {
        **_BY_COMMIT,
        "`changed`": frozenset({"changed"}),
        "`lists`": frozenset({"lists"}),
        "`marks`": frozenset({"marks"}),
    },
    ("answer", "batch", "request"),
)
OF_ROOM_KEYS: Final = OptionalParts(_BY_COMMIT, ("encrypt_megolm", "encrypt_olm", "send", "share"))
_ROOT: Final = "/_matrix/client/v3"


def _offer(process: MachineProcess) -> Json | None:
    """Let a process offer keys. Return the upload request, if there is one."""
    uploads = [request for request in process.requests() if request["type"] == "KeysUpload"]
    return uploads[0] if uploads else None


def _offered(process: MachineProcess) -> Json:
    """Let a process make the first offer of keys. Return the upload request."""
    upload = _offer(process)
    assert upload is not None  # a new account always has keys to offer
    return upload


def _asked_lists(process: MachineProcess) -> tuple[Json, object]:
    """Let a process query device lists. Return the request and the response, which has not reached the machine."""
    query = next(request for request in process.requests() if request["type"] == "KeysQuery")
    return query, process.do("post", query)


def _upload(process: MachineProcess) -> None:
    """Let a process offer keys, and give it the response."""
    process.do("answer", _offered(process))


def _sliding(process: MachineProcess) -> dict[str, Json]:
    """Let a process make a sliding-sync request. Return its position and the response."""
    return cast("dict[str, Json]", process.do("ask", "extension", True))  # noqa: FBT003 (as JSON has it)


def _change_devices(scene: ProcessScene, name: str) -> None:
    """Let Bob sign in on another device."""
    device = Device(BOB, name)
    scene.server.sign_in(device)
    MachineProcess(scene, name.lower(), device, None).do("send")


def account_fork(folder: Path, *, faulty: bool) -> tuple[Path, ...]:
    """Let two processes look for an account at the same time, before either creates one. Return their traces."""
    with ExitStack() as stack:
        scene = ProcessScene(stack, folder, "account-fork-at-creation" if faulty else None)
        if faulty:  # without the fault, neither process stops in between
            scene.app.go_on()
            scene.extension.go_on()
        for process in (scene.app, scene.extension):
            process.do("requests")
            process.close()
    return tuple(folder / name for name in TRACES)


def _upload_before_persist(scene: ProcessScene) -> None:
    scene.app.do("post", _offered(scene.app))


def _upload_repeated(scene: ProcessScene) -> None:
    scene.app.do("post", _offered(scene.app))  # the response gets lost
    _offer(scene.app)


def _one_time_exchange_frozen(scene: ProcessScene) -> None:
    upload = _offered(scene.app)
    answer = scene.app.do("post", upload)
    _offer(scene.extension)
    scene.app.do("mark_sent", upload, answer)


def _stale_count(scene: ProcessScene) -> None:
    asked = scene.app.do("ask")
    _upload(scene.extension)
    scene.app.do("receive", asked)
    _offer(scene.app)


def _count_absent_two_meanings(scene: ProcessScene) -> None:
    _upload(scene.app)
    scene.extension.do("receive", _sliding(scene.extension))
    asked = _sliding(scene.extension)
    extensions = cast("dict[str, Json]", asked["response"]["extensions"])
    del extensions["e2ee"]["device_one_time_keys_count"]  # sliding sync may leave out a count that has not changed
    scene.extension.do("receive", asked)
    _offer(scene.extension)


def _publish_marks_too_many(scene: ProcessScene) -> None:
    first = _offered(scene.app)
    scene.extension.do("mark_failed", first)
    scene.extension.do("sync")
    _offer(scene.extension)
    scene.app.do("answer", first)


def _upload_again_same_id(scene: ProcessScene) -> None:
    scene.app.do("mark_failed", _offered(scene.app))
    scene.app.do("sync")
    _offer(scene.app)


def _fallback_cycled_early(scene: ProcessScene) -> None:
    _upload(scene.app)
    claim: Json = {"one_time_keys": {PHONE.user: {PHONE.device: "signed_curve25519"}}}
    for _ in range(51):  # all one-time keys, and the fallback key
        scene.server.request(LAPTOP, "POST", f"{_ROOT}/keys/claim", claim)
    scene.extension.do("sync")
    _offer(scene.extension)


def _key_dropped_by_bad_message(scene: ProcessScene) -> None:
    scene.bob.do("share", ROOM, MEMBERS)
    content = cast("dict[str, dict[str, Json]]", scene.server.waiting(PHONE)[-1]["content"])
    for ciphertext in content["ciphertext"].values():
        ciphertext["body"] = f"{ciphertext['body']}"[:-4] + "AAAA"  # the end of its MAC
    scene.app.do("sync")


def _stale_sync_response(scene: ProcessScene) -> None:
    scene.bob.do("share", ROOM, MEMBERS)
    asked = scene.app.do("ask")
    scene.app.do("receive", asked)
    scene.extension.do("receive", asked)


def _hash_after_failure(scene: ProcessScene) -> None:
    scene.bob.do("share", ROOM, MEMBERS)
    scene.app.do("sync")
    scene.extension.do("receive", _sliding(scene.extension))


def _message_in_a_sync(scene: ProcessScene) -> None:
    scene.app.do("sync")
    scene.bob.do("share", ROOM, MEMBERS)
    scene.app.do("sync")


def _device_flag_lost(scene: ProcessScene) -> None:
    scene.app.do("sync")
    scene.meet()
    _change_devices(scene, "TABLET")
    scene.app.do("sync")


def _posless_sync_drops_lists(scene: ProcessScene) -> None:
    scene.app.do("sync")
    scene.meet()
    scene.extension.do("receive", _sliding(scene.extension))


def _late_response_wins(scene: ProcessScene) -> None:
    _change_devices(scene, "TABLET")
    scene.app.do("sync")
    late = _asked_lists(scene.app)
    _change_devices(scene, "WATCH")
    scene.extension.do("sync")
    scene.extension.do("mark_sent", *_asked_lists(scene.extension))
    scene.app.do("mark_sent", *late)


def _query_clears_newer_flag(scene: ProcessScene) -> None:
    _change_devices(scene, "TABLET")
    scene.app.do("sync")
    late = _asked_lists(scene.app)
    _change_devices(scene, "WATCH")
    scene.extension.do("sync")
    scene.app.do("mark_sent", *late)


def _requests_in_memory(scene: ProcessScene) -> None:
    scene.app.do("share", ROOM, MEMBERS)


def _save_error_ignored(scene: ProcessScene) -> None:
    scene.app.say("hello")


def _of(
    optional: OptionalParts, actions: Mapping[str, Callable[[ProcessScene], None]], *, begins_anew: bool = False
) -> Sequence[TracedFault]:
    return [
        TracedFault(name, scenario_of(name, act, begins_anew=begins_anew), optional) for name, act in actions.items()
    ]


def device_faults() -> Sequence[TracedFault]:
    """Return the faults of this module in alphabetical order."""
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
