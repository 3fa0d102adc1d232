"""What traces show, for people: what was covered; or the first step that can't be, and what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from checking.explain.drawing import drawing_of, scenes
from checking.explain.lines import Commit, DecryptMegolm, DecryptOlm, Load, Sync
from checking.explain.machine_explanation import MachineExplanation, explain_machine
from checking.explain.machine_steps import MachineStep, machine_steps
from checking.explain.merging import Base, Merged, Step, is_untold, merge
from checking.explain.page import Frame, page
from checking.explain.reading import Found, Logs, read
from checking.explain.reasons import REASONS, Certainty, Reason
from checking.explain.signs import named_by_signs
from checking.explain.states import states
from checking.explain.validation import Validation, validate
from checking.explain.writers import unwritten
from checking.tlc.toolbox import Toolbox
from unwedged.tools.sequence import Sequence as Drawing


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
        guessed = any(map(is_untold, self.merged.steps[: self._followed + 3]))
        return [
            *(["lines"] if guessed or not self.logs.complete else []),
            *(f"`{step}`" for step in unwritten(self.logs, needed)),
        ]

    @property
    def rejected(self) -> bool:
        """Whether the traces are certainly no behaviour of the specification."""
        return not self.accepted and not self.missing

    def _verdict(self, followed: int, steps: int, what: str) -> Iterator[str]:
        only = f"only {followed:,} of {steps:,} steps{what}"
        if self.rejected:
            yield f"REJECTED: {only} are a behaviour of the specification"
        else:
            missing = " and ".join(self.missing)
            yield f"NOT DECIDED: {only} are certainly a behaviour of the specification"
            yield f"  {missing} are missing: what follows may only look impossible without them"

    @property
    def impossible(self) -> Step | None:
        """The first step of the store that can't be."""
        followed = self.validation.followed
        return self.merged.steps[followed] if followed < len(self.merged.steps) else None

    @property
    def _followed(self) -> int:
        """How many steps of the store come before what is impossible."""
        return self.validation.followed if self.machine.impossible is None else self.machine.place(self.merged)

    @property
    def reasons(self) -> Sequence[Reason]:
        """Why the first impossible step can't be."""
        if self.machine.impossible is not None:
            return self.machine.reasons
        return [REASONS[name] for name in sorted(self.validation.reasons)]

    @property
    def bugs(self) -> Sequence[tuple[Sequence[str], Certainty]]:
        """The bugs that it may be due to, the likeliest first; several at once where nothing tells them apart."""
        if self.machine.impossible is None:
            signs = named_by_signs(self.logs, self.merged, self.validation.followed, self.validation.reasons)
            if signs:
                return [(signs, Certainty.LIKELY)]
        return list(_bugs(self.reasons))

    def _named(self) -> Iterator[str]:
        for bugs, certainty in self.bugs:
            yield f"  this is {certainty.value} {' or '.join(bugs)} (spec/track-record)"

    def drawing(self) -> Drawing:
        """Return the last steps that are possible, and the first one that is not."""
        return drawing_of(self.merged, scenes(self.merged, self._followed), self._ending())

    async def page(self, toolbox: Toolbox, specifications: Path) -> str:
        """Return a page with the drawing, and with the states that TLC has between its steps."""
        shown = scenes(self.merged, self._followed)
        places = {0, *(scene.taken for scene in shown)}
        known = await states(toolbox, self.merged, self.validation, specifications, places)
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
        said = "; ".join(f"{reason.says} ({', '.join(reason.clauses)})" for reason in self.reasons)
        if self.machine.impossible is not None:
            process: object = self.machine.impossible.process
        else:
            assert self.impossible is not None
            process = self.impossible.facts.get("p", "a process")
        return f"impossible: {process} {said or 'can not have done this'}"

    def text(self) -> str:
        """Say it in words."""
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        merged = self.merged
        commits = sum(step.name == "commit" for step in merged.steps)
        epochs = sum(step.name == "acquire" for step in merged.steps)
        yield (
            f"store {self.logs.store}: {sum(map(len, self.logs.instances.values())):,} lines of "
            f"{len(merged.processes)} process instances; {epochs:,} acquisitions, {commits:,} commits of "
            f"{len(merged.records):,} records"
        )
        for name, instance in merged.processes.items():
            files = sorted({found.place.file for found in self.logs.instances[instance]})
            yield f"  {name} is the instance {instance} in {', '.join(files)}"
        for remark in merged.remarks:
            yield f"  {remark}"
        impossible = self.impossible
        if self.machine.impossible is not None:
            followed, every = self.machine.validation.followed, len(self.machine.steps)
            yield from self._verdict(followed, every, " of the machine")
            yield from self.machine.lines()
            yield from self._named()
            yield from self._unread()
            return
        if impossible is None:
            and_machine = f", and so are {len(self.machine.steps):,} of the machine" if self.machine.steps else ""
            yield f"ACCEPTED: all {len(merged.steps):,} steps are a behaviour of the specification{and_machine}"
            yield "  not covered: what other devices did, and reads that a cache answered"
            yield from self._named()
            if self.validation.parts > 1:
                yield (
                    f"  followed in {self.validation.parts} parts, which leaves out: from which version a process "
                    "synced first in each part, and what it dropped that had changed before"
                )
            return
        followed = self.validation.followed
        yield from self._verdict(followed, len(merged.steps), "")
        yield f"  the first that is not: {described(impossible)}"
        for reason in self.reasons:
            yield f"  {impossible.facts.get('p', 'a process')} {reason.says} ({', '.join(reason.clauses)})"
        yield from self._named()
        yield from self._origins(impossible)
        yield from self._unread()

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
                lost = "; ".join(described(step) for step in writers[number:])
                yield f"  {record} was computed from its value of {source}, and overwrites: {lost}"

    def _unread(self) -> Iterator[str]:
        """List the messages that could not be read."""
        for found in self._all():
            match found.line:
                case DecryptMegolm(session=session, index=index, outcome=outcome) if outcome != "ok":
                    yield f"  {found.place}: message {index} of the session {session} was not read: {outcome}"
                case DecryptOlm(ratchet=ratchet, index=index, outcome=outcome) if outcome not in {"ok", "repeated"}:
                    yield f"  {found.place}: message {index} of the ratchet {ratchet} was not read: {outcome}"
                case _:
                    pass

    def _all(self) -> Iterator[Found]:
        for lines in self.logs.instances.values():
            yield from lines


def described(step: Step) -> str:
    """Name a step, its process and its line."""
    match step.line:
        case Commit(version=version, snapshot=snapshot) if step.name in {"look", "commit"}:
            what = f"commits version {version} from version {snapshot}"
        case Sync(version=version, since=since):
            what = f"syncs from version {since} to {version}"
        case Load(record=record):
            what = f"loads {record}"
        case line:
            what = step.name if line is None else f"{step.name} (operation {getattr(line, 'operation', '-')})"
    under = getattr(step.line, "epoch", None)
    where = "" if step.place is None else f" ({step.place})"
    return f"{step.facts.get('p', 'somebody')} {what}{'' if under is None else f' under epoch {under}'}{where}"


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
    if known is not None and _told(merged.steps) == _told(known.merged.steps):
        validation = known.validation
    else:
        validation = await validate(toolbox, merged, specifications)
    if validation.followed < len(merged.steps):
        return Explanation(logs, merged, validation, MachineExplanation())
    steps = machine_steps(logs, merged)
    if known is not None and _told(steps) == _told(known.machine.steps):
        return Explanation(logs, merged, validation, MachineExplanation(steps, known.machine.validation))
    return Explanation(logs, merged, validation, await explain_machine(toolbox, steps, specifications))


def _told(steps: Sequence[Step] | Sequence[MachineStep]) -> object:
    return [(step.name, step.facts) for step in steps]
