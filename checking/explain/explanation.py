"""What traces show, for people: what was covered; or the first step that can't be, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from checking.explain.drawing import drawing_of, scenes, step_in_words
from checking.explain.lines import Acquire, DecryptMegolm, DecryptOlm, Load
from checking.explain.machine_explanation import MachineExplanation, explain_machine
from checking.explain.machine_steps import MachineStep, machine_steps
from checking.explain.merging import Base, Merged, Step, is_unreported, merge
from checking.explain.page import Frame, page
from checking.explain.reading import Found, Logs, read
from checking.explain.reasons import REASONS, Certainty, Reason
from checking.explain.signs import named_by_signs
from checking.explain.states import states
from checking.explain.validation import Validation, validate
from checking.explain.wording import counted, enumerated
from checking.explain.writers import unwritten
from checking.tlc.toolbox import Toolbox
from unwedged.tools.sequence import Sequence as Drawing

MOST_UNREAD: Final = 10
"""The most messages that are listed."""


class Explanation:
    """The verdict on the traces of one store, and what it follows from."""

    def __init__(self, logs: Logs, merged: Merged, validation: Validation, machine: MachineExplanation) -> None:
        self.logs = logs
        self.merged = merged
        self.validation = validation
        self.machine = machine

    @property
    def accepted(self) -> bool:
        """Whether the traces are a behaviour of the specification."""
        return self.impossible is None and self.machine.impossible is None

    @property
    def missing(self) -> Sequence[str]:
        """What is missing, so that the first impossible step may only look impossible. Then nothing is decided."""
        needed = {need for reason in self.reasons for need in reason.needs}
        others = self._others_before or (self.merged.others and any(reason.others for reason in self.reasons))
        return [
            *(["lines"] if not self.logs.complete else []),
            *(["the trace of another process, or lines of it"] if others else []),
            *(f"`{step}`" for step in unwritten(self.logs, needed)),
        ]

    @property
    def _others_before(self) -> bool:
        """Whether the first impossible step comes after something that no line reports, or shortly before it."""
        followed = self.merged.steps[: self._followed + 3]
        acquired = {step.line.epoch for step in followed if isinstance(step.line, Acquire)}
        skipped = len(acquired) < max(acquired, default=self.merged.base_epoch) - self.merged.base_epoch
        return skipped or any(map(is_unreported, followed))

    @property
    def rejected(self) -> bool:
        """Whether the traces are certainly no behaviour of the specification."""
        return not self.accepted and not self.missing

    def _verdict(self, followed: int, steps: int, what: str, impossible: str) -> Iterator[str]:
        """Say how far the steps are possible, and which is the first that is not."""
        these = counted(steps, "step") + what
        if self.rejected:
            yield f"REJECTED: only {followed:,} of {these} are a behaviour of the specification"
            yield f"  the first that is not: {impossible}"
        else:
            yield f"NOT DECIDED: {followed:,} of {these} are certainly a behaviour of the specification"
            yield f"  missing: {enumerated(self.missing)}. So the next step may only look impossible: {impossible}"

    @property
    def impossible(self) -> Step | None:
        """The first step of the store that can't be."""
        followed = self.validation.followed
        return self.merged.steps[followed] if followed < len(self.merged.steps) else None

    @property
    def _followed(self) -> int:
        """How many steps of the store come before what is impossible."""
        return self.validation.followed if self.machine.impossible is None else self.machine.position(self.merged)

    @property
    def reasons(self) -> Sequence[Reason]:
        """Why the first impossible step can't be."""
        if self.machine.impossible is not None:
            return self.machine.reasons
        return [REASONS[name] for name in sorted(self.validation.reasons)]

    @property
    def bugs(self) -> Sequence[tuple[Sequence[str], Certainty]]:
        """The bugs that it may be due to, the likeliest first; several at once where nothing distinguishes them."""
        if self.machine.impossible is None:
            signs = named_by_signs(self.logs, self.merged, self.validation.followed, self.validation.reasons)
            if signs:
                return [(signs, Certainty.LIKELY)]
        return list(_bugs(self.reasons))

    def _judged(self, process: object) -> Iterator[str]:
        """Say what is wrong with the first impossible step."""
        seems = "" if self.rejected else "it looks as if "
        for reason in self.reasons:
            violated = f": this violates {reason.guarantee}" if reason.guarantee else ""
            yield f"{seems}{process} {reason.says} ({', '.join(reason.clauses)}){violated}"

    def _named(self) -> Iterator[str]:
        for bugs, certainty in self.bugs:
            pages = ", ".join(f"spec/track-record/{bug}.md" for bug in bugs)
            yield f"  this is {certainty.value} {' or '.join(bugs)} ({pages})"

    def drawing(self) -> Drawing:
        """Return the last steps that are possible, and the first one that is not."""
        return drawing_of(self.merged, scenes(self.merged, self._followed), self._ending())

    async def page(self, toolbox: Toolbox, specifications: Path) -> str:
        """Return a page with the drawing, and with the states that TLC has between its steps."""
        shown = scenes(self.merged, self._followed)
        positions = {0, *(scene.taken for scene in shown)}
        known = await states(toolbox, self.merged, self.validation, specifications, positions)
        frames = [
            Frame("Before the first step", known.get(0)),
            *(
                Frame(
                    f"{scene.drawn.actor} {scene.drawn.action}",
                    known.get(scene.taken),
                    impossible=scene.taken > self._followed,
                )
                for scene in shown
            ),
        ]
        verdict = "accepted" if self.accepted else "rejected" if self.rejected else "not decided"
        title = f"Traces of the store {self.logs.store}: {verdict}"
        said = f"{self.text()}\nThe states are TLC's. In them the value of a record counts its updates.\n"
        return page(title, said, drawing_of(self.merged, shown, self._ending()), frames)

    def _ending(self) -> str:
        if self.accepted:
            return "all steps are a behaviour of the specification"
        if self.machine.impossible is not None:
            process: object = self.machine.impossible.process
        else:
            assert self.impossible is not None
            process = self.impossible.facts.get("p", "a process")
        verdict = "impossible" if self.rejected else "not decided"
        return f"{verdict}: {'; '.join(self._judged(process)) or f'{process} can not have done this'}"

    def text(self) -> str:
        """Say it in words."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        merged = self.merged
        commits = sum(step.name == "commit" for step in merged.steps)
        epochs = sum(step.name == "acquire" for step in merged.steps)
        yield (
            f"store {self.logs.store}: {counted(sum(map(len, self.logs.instances.values())), 'line')} of "
            f"{counted(len(merged.processes), 'process instance')}; {counted(epochs, 'acquisition')}, "
            f"{counted(commits, 'commit')} of {counted(len(merged.records), 'record')}"
        )
        for name, instance in merged.processes.items():
            files = sorted({found.location.file for found in self.logs.instances[instance]})
            yield f"  {name} is the instance {instance} in {', '.join(files)}"
        for remark in merged.remarks:
            yield f"  {remark}"
        if self.accepted:
            yield from self._accepted()
        else:
            yield from self._not_accepted()
        yield from self._unread()

    def _accepted(self) -> Iterator[str]:
        of_machine = f", {counted(len(self.machine.steps), 'step')} of the machine" if self.machine.steps else ""
        of_store = counted(len(self.merged.steps), "step")
        yield f"ACCEPTED: the traces are a behaviour of the specification ({of_store} of the store{of_machine})"
        yield "  not covered: what other devices did, and reads that a cache answered"
        if unlisted := sum(getattr(found.line, "unlisted", 0) for found in self._all()):
            yield f"  not covered either: {counted(unlisted, 'record')} that lines do not list (`unlisted`)"
        yield from self._named()
        if self.validation.parts > 1:
            yield (
                f"  followed in {self.validation.parts} parts, which leaves out: from which version a process "
                "synced first in each part, and what it dropped that had changed before"
            )

    def _not_accepted(self) -> Iterator[str]:
        of_machine, of_store = self.machine.impossible, self.impossible
        if of_machine is not None:
            followed, every = self.machine.validation.followed, len(self.machine.steps)
            yield from self._verdict(followed, every, " of the machine", self.machine.described())
            process: object = of_machine.process
        else:
            assert of_store is not None
            steps = self.merged.steps
            yield from self._verdict(self.validation.followed, len(steps), "", described(self.merged, of_store))
            process = of_store.facts.get("p", "a process")
        yield from (f"  {wrong}" for wrong in self._judged(process))
        if not self.reasons:
            yield f"  {process} can not have done this; which clause it breaks is not known"
        if self.rejected:
            yield from self._named()
            if of_store is not None:
                yield from self._origins(of_store)

    def _origins(self, impossible: Step) -> Iterator[str]:
        """Say of each record of a commit which commit it was computed from, and which one it should have been."""
        basis = impossible.facts.get("basis")
        if not isinstance(basis, dict):
            return
        for record, number in basis.items():
            writers = [
                step
                for step in self.merged.steps[: self.validation.followed]
                if step.name == "commit" and record in _records(step)
            ]
            if number < len(writers):
                source = f"version {writers[number - 1].facts['version']}" if number else "before the traces"
                lost = "; ".join(described(self.merged, step) for step in writers[number:])
                yield f"  {record} was computed from its value of {source}, and overwrites: {lost}"

    def _unread(self) -> Iterator[str]:
        """List the messages that no process could decrypt, and say how to find out why."""
        unread: dict[str, tuple[str, str]] = {}
        read: set[str] = set()
        for found in self._all():
            match found.line:
                case DecryptMegolm(session=str(session), index=int(index), outcome=outcome):
                    option, what = f"--message {session}:{index}", f"message {index} of the session {session}"
                case DecryptOlm(ratchet=str(ratchet), index=int(index), outcome=outcome):
                    option, what = f"--olm {ratchet}:{index}", f"the Olm message {ratchet}:{index}"
                case _:
                    continue
            if outcome in {"ok", "repeated"}:
                # Two Olm messages can have one key, as in a fork.
                read |= {option} if isinstance(found.line, DecryptMegolm) else set()
            else:
                unread[option] = (f"{what} was not decrypted: {outcome}", str(found.location))
        rest = [(option, *said) for option, said in unread.items() if option not in read]
        for option, said, location in rest[:MOST_UNREAD]:
            yield f"  {said} ({location}); to find out why, add {option}"
        if len(rest) > MOST_UNREAD:
            yield f"  and {counted(len(rest) - MOST_UNREAD, 'message')} more"

    def _all(self) -> Iterator[Found]:
        for lines in self.logs.instances.values():
            yield from lines


def described(merged: Merged, step: Step) -> str:
    """Name a step, its process and its line."""
    actor, _, action = step_in_words(merged, step)
    what = f"loads {step.line.record}" if isinstance(step.line, Load) else action
    return f"{actor} {what}{'' if step.location is None else f' ({step.location})'}"


def _bugs(reasons: Sequence[Reason]) -> Iterator[tuple[list[str], Certainty]]:
    """Return the bugs that give all of the reasons, and how sure that is; or those that give each of them."""
    named = [reason for reason in reasons if reason.bugs]
    common = [bug for bug in named[0].bugs if all(bug in other.bugs for other in named)] if named else []
    if common:
        yield common, min((reason.certainty for reason in named), key=list(Certainty).index)
    else:
        yield from ((list(reason.bugs), reason.certainty) for reason in named)


def _records(step: Step) -> tuple[str, ...]:
    records = step.facts["records"]
    assert isinstance(records, tuple)
    return records


async def explain(toolbox: Toolbox, paths: tuple[Path, ...], store: str | None, specifications: Path) -> Explanation:
    """Read traces, put them in order, and let TLC decide."""
    return await explained(toolbox, read(paths, store), specifications)


async def explained(
    toolbox: Toolbox, logs: Logs, specifications: Path, known: Explanation | None = None, base: Base | None = None
) -> Explanation:
    """Put traces in order, and let TLC decide; it is not asked about steps again that it has followed before."""
    merged = merge(logs, base)
    if known is not None and _given_to_tlc(merged.steps) == _given_to_tlc(known.merged.steps):
        validation = known.validation
    else:
        validation = await validate(toolbox, merged, specifications)
    if validation.followed < len(merged.steps):
        return Explanation(logs, merged, validation, MachineExplanation())
    steps = machine_steps(logs, merged)
    if known is not None and _given_to_tlc(steps) == _given_to_tlc(known.machine.steps):
        return Explanation(logs, merged, validation, MachineExplanation(steps, known.machine.validation))
    return Explanation(logs, merged, validation, await explain_machine(toolbox, steps, specifications))


def _given_to_tlc(steps: Sequence[Step] | Sequence[MachineStep]) -> object:
    return [(step.name, step.facts) for step in steps]
