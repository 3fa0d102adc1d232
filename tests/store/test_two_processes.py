"""Two real processes on one store share an Olm session with Bob, and lose no update.

The processes are really suspended and killed, at chosen points. Their leases expire because the test moves their clock.
So every run with the same seed takes the same steps.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from examples.story.olm import OlmMessage, place_of
from examples.story.processes import Bob, SharedStore, Wedged, shared_store
from examples.story.program import (
    TIMES,
    Decrypt,
    Done,
    Encrypt,
    Failed,
    GoOn,
    Kept,
    Meet,
    Outcome,
    Point,
    Recall,
    Stands,
    Tick,
    Waits,
)
from examples.story.short_cuts import ShortCut
from examples.story.story import Story

TURNS: Final = 45
"""The number of turns that may be interrupted. Each brings further turns, so the total is more than twice as large."""
LABELS: Final = ("app", "extension")


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[SharedStore]:
    async with shared_store(tmp_path, ShortCut.NONE) as opened:
        yield opened


def ciphertext(outcome: Outcome) -> OlmMessage:
    assert isinstance(outcome, Done)
    assert outcome.message is not None
    return outcome.message


class TestInterruptions:
    # P4.11
    async def test_a_process_suspended_past_its_lease_starts_over_on_fresh_state(self, shared: SharedStore) -> None:
        bob, app, extension = Bob(), await shared.start("app"), await shared.start("extension")
        assert await shared.perform(app, Meet(bob.invitation)) == Done(epochs=(1,))
        app.send(Encrypt(1, "slow", Point.READ))
        assert await shared.stands(app) == Stands(Point.READ)
        await app.suspend()
        shared.expire_lease()

        quick = await shared.perform(extension, Encrypt(2, "quick"))
        assert isinstance(quick, Done)
        assert quick.epochs == (2,)
        assert bob.decrypt(ciphertext(quick)) == "quick"

        app.send(GoOn())
        app.resume()
        slow = await shared.outcome(app)
        assert isinstance(slow, Done)
        assert slow.epochs == (1, 3)
        assert bob.decrypt(ciphertext(slow)) == "slow"
        assert [place_of(ciphertext(each)).index for each in (quick, slow)] == [0, 1]

    # P6.3
    async def test_an_operation_that_failed_on_stale_state_starts_over_too(self, shared: SharedStore) -> None:
        """The process knew no session and was suspended. Meanwhile there is a session, so its error would be wrong."""
        bob, app, extension = Bob(), await shared.start("app"), await shared.start("extension")
        app.send(Encrypt(1, "hello", Point.READ))
        assert await shared.stands(app) == Stands(Point.READ)
        await app.suspend()
        shared.expire_lease()
        assert await shared.perform(extension, Meet(bob.invitation)) == Done(epochs=(2,))

        app.send(GoOn())
        app.resume()
        hello = await shared.outcome(app)
        assert isinstance(hello, Done)
        assert hello.epochs == (1, 3)
        assert bob.decrypt(ciphertext(hello)) == "hello"

    # P1.8
    async def test_a_renewal_does_not_bring_a_lost_lease_back(self, shared: SharedStore) -> None:
        bob, app, extension = Bob(), await shared.start("app"), await shared.start("extension")
        await shared.perform(app, Meet(bob.invitation))
        await app.suspend()
        shared.expire_lease()
        bob.decrypt(ciphertext(await shared.perform(extension, Encrypt(1, "one"))))
        app.send(Tick())
        app.resume()
        await app.log_line("lease lost label=app epoch=1 version=1")
        two = await shared.perform(app, Encrypt(2, "two"))
        assert isinstance(two, Done)
        assert two.epochs == (3,)
        assert bob.decrypt(ciphertext(two)) == "two"

    # P8.8
    async def test_a_process_hands_over_after_its_operation_to_one_that_waits(self, shared: SharedStore) -> None:
        bob, app, extension = Bob(), await shared.start("app"), await shared.start("extension")
        await shared.perform(app, Meet(bob.invitation))
        app.send(Encrypt(1, "one", Point.STEPPED))
        await shared.stands(app)
        extension.send(Encrypt(2, "two"))
        assert await extension.next_answer() == Waits()
        shared.ask_again(extension)
        assert await extension.next_answer() == Waits()  # The operation is still running.

        app.send(GoOn())
        await app.log_line("lease released label=app epoch=1")  # with the commit, before the result is reported
        assert bob.decrypt(ciphertext(await shared.outcome(app))) == "one"
        shared.ask_again(extension)
        assert bob.decrypt(ciphertext(await shared.outcome(extension))) == "two"

    # P8.11
    async def test_an_operation_that_waits_for_another_process_keeps_nobody_out(self, shared: SharedStore) -> None:
        """The app's operation ends only after the extension has held the lease."""
        bob, app, extension = Bob(), await shared.start("app"), await shared.start("extension")
        await shared.perform(app, Meet(bob.invitation))
        app.send(Encrypt(1, "one", Point.READ))
        await shared.stands(app)
        extension.send(Encrypt(2, "two"))
        assert await extension.next_answer() == Waits()
        await shared.renewed(app)  # so it learns that another process waits
        shared.clock.advance(TIMES.renew_every_ms)
        app.send(Tick())
        line = await app.log_line_beginning("another process waits for the lease, which is no longer renewed")
        assert "label=app epoch=1: __main__.Operations._encrypt (6000 ms)" in line
        shared.expire_lease()
        shared.ask_again(extension)
        two = await shared.outcome(extension)
        assert bob.decrypt(ciphertext(two)) == "two"

        app.send(GoOn())
        one = await shared.outcome(app)
        assert isinstance(one, Done)
        assert one.epochs == (1, 3)
        assert bob.decrypt(ciphertext(one)) == "one"

    @pytest.mark.parametrize("point", Point)
    async def test_what_a_killed_process_began_is_done_once(self, shared: SharedStore, point: Point) -> None:
        bob, app, extension = Bob(), await shared.start("app"), await shared.start("extension")
        await shared.perform(app, Meet(bob.invitation))
        app.send(Encrypt(1, "one", point))
        await shared.stands(app)
        await app.kill()
        shared.expire_lease()
        one = ciphertext(await shared.perform(extension, Encrypt(1, "one")))
        two = ciphertext(await shared.perform(extension, Encrypt(2, "two")))
        assert [bob.decrypt(one), bob.decrypt(two)] == ["one", "two"]
        assert [place_of(one).index, place_of(two).index] == [0, 1]


class Conversation:
    """Turns of the two processes. A seeded random generator chooses the process, its command, and the fault."""

    def __init__(self, shared: SharedStore, seed: int) -> None:
        self.happened: Counter[str] = Counter()
        self.sent: dict[int, str] = {}
        """The messages that Bob has read, by number."""
        self.received: dict[int, str] = {}
        """The messages that Bob has written, by number."""
        self.unread: dict[int, OlmMessage] = {}
        """Bob's messages that no process has read yet."""
        self._asleep: set[str] = set()
        self._chains: list[bytes] = []
        """Bob's messages, in order."""
        self._shared = shared
        self._random = random.Random(seed)
        self._bob = Bob()
        self._numbers = 0

    async def run(self, turns: int) -> None:
        for label in LABELS:
            await self._shared.start(label)
        await self._shared.perform(self._shared.processes[LABELS[0]], Meet(self._bob.invitation))
        for _ in range(turns):
            await self._turn(self._random.choice(LABELS), [None, *Point])
        for number in tuple(self.unread):
            await self._perform(LABELS[0], Decrypt(number, self.unread[number]))

    async def check_store(self) -> None:
        """Let a new process check the stored records."""
        for process in self._shared.processes.values():
            await process.close()
        kept = await self._shared.perform(await self._shared.start("newcomer"), Recall())
        assert kept == Kept(tuple(sorted(self.sent)), self.received)
        assert sorted(self._bob.read) == sorted(self.sent.values())

    async def _turn(self, label: str, points: list[Point | None]) -> None:
        if self._bob.met and len(self.unread) < 3 and self._random.random() < 0.5:
            number = self._number()
            self.received[number] = f"{number}, from Bob"
            message = self.unread[number] = self._bob.encrypt(self.received[number])
            if place_of(message).chain not in self._chains:
                self._chains.append(place_of(message).chain)
        point = self._random.choice(points)
        late = [number for number, message in self.unread.items() if self._age(message) > 1]
        if late or (self.unread and self._random.random() < 0.5):
            number = self._random.choice(late or tuple(self.unread))  # Bob's messages need not arrive in order ...
            await self._perform(label, Decrypt(number, self.unread[number], point))  # ... nor at the same process.
        else:
            number = self._number()
            await self._perform(label, Encrypt(number, f"{number}, to Bob", point))

    def _age(self, message: OlmMessage) -> int:
        """Return the number of chains that Bob began after the message's chain. A session keeps only the last five."""
        return len(self._chains) - 1 - self._chains.index(place_of(message).chain)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    async def _perform(self, label: str, operation: Encrypt | Decrypt) -> None:
        self._shared.processes[label].send(operation)
        while not isinstance(event := await self._shared.processes[label].next_answer(), Outcome):
            if isinstance(event, Waits):
                await self._make_way(label)
            elif isinstance(event, Stands):
                await self._interrupt(label, operation)
        match operation, event:
            case Encrypt(number, text), Done(epochs, message) if message is not None:
                assert self._bob.decrypt(message) == text
                self.sent[number] = text
            case Decrypt(number), Done(epochs, _, text):
                assert text == self.received[number]
                self.unread.pop(number, None)
            case Decrypt(number), Failed(reason):
                raise Wedged(f"message {number} from Bob", reason)
            case _:
                raise AssertionError(event)
        self.happened["turns"] += 1
        self.happened["reruns"] += len(epochs) - 1
        self._wake_up()

    async def _make_way(self, label: str) -> None:
        """Let a process wait for the lease. The holder hands it over, unless it is killed or suspended."""
        [other] = (each for each in LABELS if each != label)
        if self._shared.wanted() is not None:
            match self._one_of(
                {"asked to hand over": 6, "suspended between operations": 3, "killed between operations": 1}
            ):
                case "suspended between operations":
                    await self._shared.processes[other].suspend()
                    self._asleep.add(other)
                    self._shared.expire_lease()
                case "killed between operations":
                    await self._replace(other)
        await self._shared.make_way(self._shared.processes[label])

    async def _interrupt(self, label: str, operation: Encrypt | Decrypt) -> None:
        """Interrupt a process in the middle of an operation, or before it can answer."""
        [other] = (each for each in LABELS if each != label)
        self._wake_up()
        match self._one_of({"suspended in an operation": 9, "killed in an operation": 1}):
            case "suspended in an operation":
                process = self._shared.processes[label]
                await process.suspend()
                process.send(GoOn())
                self._shared.expire_lease()
                for _ in range(self._random.randint(1, 3)):
                    await self._turn(other, [None])
                process.resume()
            case "killed in an operation":
                await self._replace(label)
                self._shared.processes[label].send(operation)

    def _one_of(self, weights: Mapping[str, int]) -> str:
        [what] = self._random.choices(tuple(weights), tuple(weights.values()))
        self.happened[what] += 1
        return what

    async def _replace(self, label: str) -> None:
        await self._shared.processes[label].kill()
        self._shared.expire_lease()
        await self._shared.start(label)

    def _wake_up(self) -> None:
        while self._asleep:
            self._shared.processes[self._asleep.pop()].resume()


@pytest.mark.parametrize("seed", [1, 2])
async def test_nothing_is_lost(shared: SharedStore, seed: int) -> None:
    conversation = Conversation(shared, seed)
    await conversation.run(TURNS)
    print(f"seed {seed}: {dict(conversation.happened)}")  # noqa: T201 (shown where the test fails)
    await conversation.check_store()
    assert not conversation.unread
    assert len(conversation.happened) == 7, "something that should have happened did not"


@pytest.mark.parametrize("short_cut", [ShortCut.NO_FENCE, ShortCut.KEPT_CACHE])
@pytest.mark.parametrize("seed", [1, 2])
async def test_without_a_rule_sessions_are_wedged(tmp_path: Path, short_cut: ShortCut, seed: int) -> None:
    async with shared_store(tmp_path, short_cut) as shared:
        conversation = Conversation(shared, seed)
        with pytest.raises(Wedged) as wedged:
            await conversation.run(TURNS)
    print(f"seed {seed}: {wedged.value} after {dict(conversation.happened)}")  # noqa: T201 (shown where the test fails)
    assert "message key" in wedged.value.reason or "invalid MAC" in wedged.value.reason


@pytest.mark.parametrize(
    ("short_cut", "lost"),
    [(ShortCut.NONE, []), (ShortCut.NO_FENCE, ["two", "six"]), (ShortCut.KEPT_CACHE, ["two", "six", "seven"])],
)
async def test_the_story(tmp_path: Path, short_cut: ShortCut, lost: list[str]) -> None:
    async with shared_store(tmp_path, short_cut) as shared:
        story = Story(shared)
        await story.tell()
    assert story.lost == lost
