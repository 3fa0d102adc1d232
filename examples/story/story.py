"""A short story: two processes, one store, one Olm session, and what becomes of it with and without the protocol.

python -m examples.story
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from examples.story.olm import place_of
from examples.story.program import Decrypt, Done, Encrypt, Failed, GoOn, Meet, Operation, Outcome, Point
from examples.story.short_cuts import ShortCut
from examples.story.stage import Actor, Bob, Stage, Wedged, stage

TITLES = {
    ShortCut.NONE: "The protocol",
    ShortCut.NO_FENCE: "The same, with no fence: whoever once had the lease may write",
    ShortCut.KEPT_CACHE: "The same, with a kept cache: what is in memory stays there",
}


NAMES = {"protocol": ShortCut.NONE, "no-fence": ShortCut.NO_FENCE, "kept-cache": ShortCut.KEPT_CACHE}


def say(who: str, what: str) -> None:
    sys.stdout.write(f"  {who:9}  {what}\n")


def overhear(who: str, line: str) -> None:
    """Pass on of a process's log what the story is about."""
    if line.startswith("operation runs again"):
        say(who, line)


class Story:
    """One telling of it. ``lost`` are the messages that could not be read."""

    def __init__(self, on: Stage) -> None:
        self._stage = on
        self._bob = Bob()
        self.lost: list[str] = []

    async def tell(self) -> None:
        app, extension = await self._stage.enter("app"), await self._stage.enter("extension")
        await self._stage.perform(app, Meet(self._bob.invitation))
        await self._encrypts(app, Encrypt(1, "one"))

        await self._is_suspended(app, Encrypt(2, "two", Point.READ), "encrypts 'two'")
        await self._encrypts(extension, Encrypt(3, "three"))
        self._sent(app, "two", await self._goes_on(app))

        four = self._bob.encrypt("four")
        say("Bob", "sends 'four'")
        await self._is_suspended(app, Decrypt(4, four, Point.STEPPED), "decrypts 'four'")
        self._received(extension, "four", await self._stage.perform(extension, Decrypt(4, four)))
        await self._encrypts(extension, Encrypt(5, "five"))
        self._received(app, "four", await self._goes_on(app))

        await self._encrypts(app, Encrypt(6, "six"))
        seven = self._bob.encrypt("seven")
        say("Bob", "sends 'seven'")
        self._received(app, "seven", await self._stage.perform(app, Decrypt(7, seven)))

    async def _is_suspended(self, actor: Actor, operation: Operation, what: str) -> None:
        actor.send(operation)
        await self._stage.stands(actor)
        await actor.suspend()
        self._stage.lapse()
        say(actor.label, f"{what}, and in the middle of it is suspended for longer than its lease")

    async def _goes_on(self, actor: Actor) -> Outcome:
        actor.send(GoOn())  # It does so when it is resumed, in the middle of where it was.
        say(actor.label, "wakes up, and goes on")
        actor.resume()
        return await self._stage.outcome(actor)

    async def _encrypts(self, actor: Actor, operation: Encrypt) -> None:
        self._sent(actor, operation.text, await self._stage.perform(actor, operation))

    def _sent(self, actor: Actor, text: str, outcome: Outcome) -> None:
        assert isinstance(outcome, Done)
        assert outcome.message is not None
        say(
            actor.label,
            f"sends '{text}' under epoch {outcome.epochs[-1]}: {self._bob.called(place_of(outcome.message))}",
        )
        try:
            say("Bob", f"reads '{self._bob.decrypt(outcome.message)}'")
        except Wedged as wedged:
            self._lost("Bob", text, wedged.reason)

    def _received(self, actor: Actor, text: str, outcome: Outcome) -> None:
        match outcome:
            case Done():
                say(actor.label, f"reads '{outcome.text}' under epoch {outcome.epochs[-1]}")
            case Failed(reason):
                self._lost(actor.label, text, reason)

    def _lost(self, who: str, text: str, reason: str) -> None:
        self.lost.append(text)
        say(who, f"CAN'T READ '{text}': {reason}")


async def tell(short_cut: ShortCut) -> list[str]:
    """Tell the story, and return the messages that were lost in it."""
    sys.stdout.write(f"{TITLES[short_cut]}\n")
    with tempfile.TemporaryDirectory() as folder:
        async with stage(Path(folder), short_cut, overhear) as on:
            story = Story(on)
            await story.tell()
    lost = ", ".join(story.lost) or "nothing"
    sys.stdout.write(f"  Lost: {lost}\n")
    return story.lost


async def main(names: Sequence[str]) -> None:
    """Tell the stories of these names; of all three where there are none."""
    for name in names or NAMES:
        await tell(NAMES[name])
