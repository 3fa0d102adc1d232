"""Sample traces: a device whose two processes keep what they have cached, and whose peer can't decrypt a message."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from checking.errors import CheckError
from checking.explain.lines import DecryptMegolm, EncryptMegolm
from checking.explain.reading import read
from checking.traced_faults.machine_process import KEY
from checking.traced_faults.machine_scene import ROOM, TRACES, ProcessScene

PEER_TRACE: Final = "bob.ndjson"
STORES: Final = ("PHONE.db", "LAPTOP.db")
KEY_FILE: Final = "stores.key"
FAULT: Final = "session-cache-survives"


class FolderInUse(CheckError):
    """The folder for the traces is not empty, or it can't be made."""


class Sample(NamedTuple):
    """What the unread message is called, as ``SESSION:INDEX``."""

    by_device: str
    """In the traces of the device's processes."""
    by_peer: str
    """In the traces of its peer."""
    by_application: str
    """With the real id of its session."""


def make_sample(folder: Path) -> Sample:
    """Leave traces in a folder, and the key of the stores. Return the names of the unread message."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FolderInUse(f"{folder} can't be made: {error.strerror}") from None
    if any(folder.iterdir()):
        raise FolderInUse(f"{folder} is not empty: name a new folder")
    with ExitStack() as stack:
        on = ProcessScene(stack, folder, FAULT)
        on.meet()
        on.greet()
        events = []
        for process in (on.app, on.extension, on.app):
            process.do("discard", ROOM)
            events.append(process.say("hello"))
        on.bob.do("sync")
        on.bob.do("read", ROOM, events[-1])
        for process in (on.app, on.extension, on.bob):
            process.close()
    (folder / KEY_FILE).write_text(f"{KEY.hex()}\n")
    by_peer = _last_message(folder / PEER_TRACE, DecryptMegolm)
    content = events[-1]["content"]
    assert isinstance(content, dict)
    real = f"{content['session_id']}:{by_peer.rpartition(':')[2]}"
    return Sample(_last_message(folder / TRACES[0], EncryptMegolm), by_peer, real)


def _last_message(path: Path, step: type[EncryptMegolm | DecryptMegolm]) -> str:
    [lines] = read([path]).instances.values()
    *_, last = (found.line for found in lines if isinstance(found.line, step))
    assert isinstance(last, EncryptMegolm | DecryptMegolm)
    return f"{last.session}:{last.index}"
