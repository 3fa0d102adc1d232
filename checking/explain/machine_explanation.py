"""The verdict on the steps of the machine. It is given only if all steps of the store are possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from checking.explain.lines import MachineLine
from checking.explain.machine_reasons import MACHINE_REASONS
from checking.explain.machine_steps import MachineStep
from checking.explain.machine_validation import MachineValidation, validate_machine
from checking.explain.merging import Merged
from checking.explain.reasons import Reason
from checking.explain.wording import in_words
from checking.tlc.toolbox import Toolbox


@dataclass(frozen=True, slots=True)
class MachineExplanation:
    """How far the steps of the machine are possible, and why no further."""

    steps: Sequence[MachineStep] = ()
    validation: MachineValidation = field(default_factory=lambda: MachineValidation(0, 0))

    @property
    def impossible(self) -> MachineStep | None:
        """The first step that can't be."""
        return self.steps[self.validation.followed] if self.validation.followed < len(self.steps) else None

    @property
    def reasons(self) -> Sequence[Reason]:
        """Why it can't be."""
        return [MACHINE_REASONS[name] for name in sorted(self.validation.reasons)]

    def position(self, merged: Merged) -> int:
        """Return how many steps of the store come before the end of the operation that the impossible step is of."""
        step = self.impossible
        assert step is not None
        line = step.found.line
        for position, taken in enumerate(merged.steps):
            of = taken.line
            same = of is not None and of.instance == line.instance
            if same and getattr(of, "operation", 0) == getattr(line, "operation", -1):
                return position
        return len(merged.steps) - 1

    def described(self) -> str:
        """Name the impossible step, its process and its line."""
        step = self.impossible
        assert step is not None
        line = step.found.line
        what = in_words(line) if isinstance(line, MachineLine) else "commits"
        return f"{step.process} {what} ({step.found.location})"


async def explain_machine(toolbox: Toolbox, steps: Sequence[MachineStep], specifications: Path) -> MachineExplanation:
    """Let TLC decide whether the steps of the machine are possible."""
    return MachineExplanation(steps, await validate_machine(toolbox, steps, specifications))
