"""A short story: two processes, one store, one Olm session, and what becomes of it with and without the protocol.

python -m examples.story
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from examples.story.olm import place_of
from examples.story.processes import Bob, SharedStore, StoryProcess, Wedged, shared_store
from examples.story.program import Decrypt, Done, Encrypt, Failed, GoOn, Meet, Operation, Outcome, Point
from examples.story.short_cuts import ShortCut

TITLES = {
    ShortCut.NONE: "The protocol",
    ShortCut.NO_FENCE: "The same, with no fence: a process that once had the lease may write",
    ShortCut.KEPT_CACHE: "The same, with a kept cache: what is in memory stays there",
}


NAMES = {"protocol": ShortCut.NONE, "no-fence": ShortCut.NO_FENCE, "kept-cache": ShortCut.KEPT_CACHE}


def say(speaker: str, line: str) -> None:
    sys.stdout.write(f"  {speaker:9}  {line}\n")


def show_reruns(label: str, line: str) -> None:
    """Pass on of a process's log what the story is about."""
    if line.startswith("operation runs again"):
        say(label, line)


class Story:
    """One telling of it. ``lost`` are the messages that could not be read."""

    def __init__(self, shared: SharedStore) -> None:
        self._shared = shared
        self._bob = Bob()
        self.lost: list[str] = []

    async def tell(self) -> None:
        app, extension = await self._shared.start("app"), await self._shared.start("extension")
        await self._shared.perform(app, Meet(self._bob.invitation))
        await self._encrypts(app, Encrypt(1, "one"))

        await self._is_suspended(app, Encrypt(2, "two", Point.READ), "encrypts 'two'")
        await self._encrypts(extension, Encrypt(3, "three"))
        self._sent(app, "two", await self._goes_on(app))

        four = self._bob.encrypt("four")
        say("Bob", "sends 'four'")
        await self._is_suspended(app, Decrypt(4, four, Point.STEPPED), "decrypts 'four'")
        self._received(extension, "four", await self._shared.perform(extension, Decrypt(4, four)))
        await self._encrypts(extension, Encrypt(5, "five"))
        self._received(app, "four", await self._goes_on(app))

        await self._encrypts(app, Encrypt(6, "six"))
        seven = self._bob.encrypt("seven")
        say("Bob", "sends 'seven'")
        self._received(app, "seven", await self._shared.perform(app, Decrypt(7, seven)))

    async def _is_suspended(self, process: StoryProcess, operation: Operation, what: str) -> None:
        process.send(operation)
        await self._shared.stands(process)
        await process.suspend()
        self._shared.expire_lease()
        say(process.label, f"{what}, and in the middle of it is suspended for longer than its lease")

    async def _goes_on(self, process: StoryProcess) -> Outcome:
        process.send(GoOn())  # It does so when it is resumed, in the middle of where it was.
        say(process.label, "wakes up, and goes on")
        process.resume()
        return await self._shared.outcome(process)

    async def _encrypts(self, process: StoryProcess, operation: Encrypt) -> None:
        self._sent(process, operation.text, await self._shared.perform(process, operation))

    def _sent(self, process: StoryProcess, text: str, outcome: Outcome) -> None:
        assert isinstance(outcome, Done)
        assert outcome.message is not None
        say(
            process.label,
            f"sends '{text}' under epoch {outcome.epochs[-1]}: {self._bob.called(place_of(outcome.message))}",
        )
        try:
            say("Bob", f"reads '{self._bob.decrypt(outcome.message)}'")
        except Wedged as wedged:
            self._lost("Bob", text, wedged.reason)

    def _received(self, process: StoryProcess, text: str, outcome: Outcome) -> None:
        match outcome:
            case Done():
                say(process.label, f"reads '{outcome.text}' under epoch {outcome.epochs[-1]}")
            case Failed(reason):
                self._lost(process.label, text, reason)

    def _lost(self, reader: str, text: str, reason: str) -> None:
        self.lost.append(text)
        say(reader, f"CAN'T READ '{text}': {reason}")


async def tell(short_cut: ShortCut) -> list[str]:
    """Tell the story, and return the messages that were lost in it."""
    sys.stdout.write(f"{TITLES[short_cut]}\n")
    with tempfile.TemporaryDirectory() as folder:
        async with shared_store(Path(folder), short_cut, show_reruns) as shared:
            story = Story(shared)
            await story.tell()
    lost = ", ".join(story.lost) or "nothing"
    sys.stdout.write(f"  Lost: {lost}\n")
    return story.lost


async def main(names: Sequence[str]) -> None:
    """Tell the stories of these names; of all three where there are none."""
    for name in names or NAMES:
        await tell(NAMES[name])
