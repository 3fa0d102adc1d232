"""Define a model's counterpart: it takes the model's steps by real machines, and observes the state in its terms."""

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
"""Returns how a step violates the property, by the observations before and after the step, or ``None``."""


Wanted: TypeAlias = "Callable[[State], bool]"
"""Returns whether the condition that a liveness property promises is true in an observed state."""


class Impossible(CheckError):
    """The machine does not take a step that a model takes."""


class Counterpart(ABC):
    """Real machines that take the steps of a model.

    Their observed state has the form of the model's states. Each variable is computed from the real records, from the
    homeserver, or from the requests and responses that processes hold.
    """

    properties: ClassVar[Mapping[str, Property]]
    """The safety properties that faults of the model violate."""
    wanted: ClassVar[Mapping[str, Wanted]] = {}
    """The conditions that the liveness properties promise, of the properties that faults violate."""
    faults: ClassVar[Mapping[str, Callable[[], Sequence[Substitution]]]]
    """The substitutions that inject the model's faults into the machine. The product has no switch for a fault."""

    devices: Sequence[SharedDevice]
    outside: object
    """Everything that a step may change besides records: the homeserver, and what processes hold. Must be picklable."""

    @classmethod
    @abstractmethod
    async def open(cls, folder: Path, initial: State) -> Self:
        """Set up the initial state of the model. ``initial`` also shows the constants of the model."""

    @staticmethod
    @abstractmethod
    def steps(action: str, before: State, after: State) -> list[Label]:
        """Return the steps of an action that lead from one state of the model to another."""

    @abstractmethod
    def choices(self) -> Sequence[Label]:
        """Return the steps that a caller can ask for now. The machine alone decides whether each is possible."""

    def all_choices(self) -> Sequence[Label]:
        """Return the same steps, and those that the model may allow, or that only one of its bounds may forbid."""
        return self.choices()

    @abstractmethod
    async def take(self, step: Label) -> None:
        """Take a step. Raises ``Impossible`` if the machine refuses it; then nothing has changed."""

    @abstractmethod
    async def repeat(self, step: Label) -> bool:
        """Give the machine's last input to another process. Return whether the step had an input."""

    @abstractmethod
    def observe(self) -> State:
        """Return the observed state, in the form of the model's states."""

    async def close(self) -> None:
        """Close all files."""
        for device in self.devices:
            await device.close()
