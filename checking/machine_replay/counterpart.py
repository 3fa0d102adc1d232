"""What stands in the place of a model: it takes the model's steps, and says in the model's terms what came of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self, TypeAlias

from checking.errors import CheckError
from checking.machine_replay.shared_device import SharedDevice
from checking.replay.substitutions import Substitution
from checking.tlc.values import Label, State

Property: TypeAlias = "Callable[[State, State], str | None]"
"""Says what is wrong with a step, by what was observed before it and after it."""


Wanted: TypeAlias = "Callable[[State], bool]"
"""Says of what was observed whether that is so which is to come about some day."""


class Impossible(CheckError):
    """A step that a model takes can't be taken."""


class Counterpart(ABC):
    """Real machines in the place of a model.

    What is observed of them has the form of the model's states. So each variable of the model is a projection of real
    records, of the homeserver, or of what a process has in hand.
    """

    properties: ClassVar[Mapping[str, Property]]
    """Those that faults of the model violate."""
    wanted: ClassVar[Mapping[str, Wanted]] = {}
    """Of liveness properties that faults violate: what each of them says will be so for ever, some day."""
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]]
    """The model's faults, injected into the machine by substitution: the product has no switch for them."""

    devices: Sequence[SharedDevice]
    outside: object
    """All else that a step may change: the homeserver, and what the processes have in hand. It can be pickled."""

    @classmethod
    @abstractmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """Make all that the model has, as it is initially. That state also says which constants the model has."""

    @staticmethod
    @abstractmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """Return which steps of an action lead from one state of the model to another."""

    @abstractmethod
    def choices(self) -> Sequence[Label]:
        """Return the steps that a caller can ask for now, where the machine alone decides whether they are possible."""

    def all_choices(self) -> Sequence[Label]:
        """Return the same, with those that only a bound or a constraint of a graph may forbid."""
        return self.choices()

    @abstractmethod
    async def take(self, step: Label) -> None:
        """Take a step. Raises ``Impossible``, and then nothing has changed."""

    @abstractmethod
    async def repeat(self, step: Label) -> bool:
        """Give another process once more what a step gave to the machine. Say whether it gave anything."""

    @abstractmethod
    def observe(self) -> State:
        """Return what the model's state is to be."""

    async def close(self) -> None:
        """Let go of all files."""
        for device in self.devices:
            await device.close()
