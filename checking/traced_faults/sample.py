"""Sample traces: a device whose two processes keep what they have cached, and whose peer can't decrypt a message."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Final

from checking.errors import CheckError
from checking.explain.lines import DecryptMegolm, EncryptMegolm
from checking.explain.reading import read
from checking.traced_faults.machine_scene import ROOM, TRACES, ProcessScene

PEER_TRACE: Final = "bob.ndjson"
FAULT: Final = "session-cache-survives"


class FolderInUse(CheckError):
    """The folder for the traces is not empty, or it can't be made."""


def make_sample(folder: Path) -> tuple[str, str]:
    """Leave traces in a folder; return what those of the device and those of its peer call the unread message."""
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
    return (
        _last_message(folder / TRACES[0], EncryptMegolm),
        _last_message(folder / PEER_TRACE, DecryptMegolm),
    )


def _last_message(path: Path, step: type[EncryptMegolm | DecryptMegolm]) -> str:
    [lines] = read([path]).instances.values()
    *_, last = (found.line for found in lines if isinstance(found.line, step))
    assert isinstance(last, EncryptMegolm | DecryptMegolm)
    return f"{last.session}:{last.index}"
