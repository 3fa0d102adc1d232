"""Find out which property needs which condition of the specification.

A condition is a conjunct of an action that does not mention the next state. A fairness assumption counts as a condition
too. Each condition is removed, one at a time, and the smoke models are checked without it. The first property that is
violated is the one that needs the condition. If no property is violated, either the condition is superfluous, or a
property is missing. ``tla/models/conditions.toml`` lists for each condition the property that is violated without it,
or the reason why it stays.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from checking.errors import CheckError, ManifestInvalid
from checking.models.manifest import Band, Manifest, Model
from checking.tlc.run import Job, Verdict, run
from checking.tlc.toolbox import Toolbox

MODULES = {
    "LeaseLock": "MCLeaseLock.tla",
    "CryptoStoreCache": "MCCryptoStoreCache.tla",
    "Inbox": "MCInbox.tla",
    "Sharing": "MCSharing.tla",
    "Sessions": "MCSessions.tla",
    "Keys": "MCKeys.tla",
    "Lists": "MCLists.tla",
    "Backup": "MCBackup.tla",
    "Verification": "MCVerification.tla",
    "Gossip": "MCGossip.tla",
}
"""The modules whose conditions are removed, each with the module of its models."""

LOWERED_BOUNDS = {
    "LeaseLockProgress": {"MaxJumps": 0},
    "CryptoStoreCache": {"MaxEpoch": 2},
    "Sharing": {"MaxSessions": 1},
    "Keys": {"MaxId": 2},
    "KeysProgress": {"MaxId": 2},
    "Lists": {"MaxChanges": 1},
    "Backup": {"MaxIndex": 0},
    "BackupProgress": {"MaxIndex": 0},
    "Verification": {"MaxCancels": 0},
    "VerificationProgress": {"MaxCancels": 0},
    "Gossip": {"MaxBlocked": 0},
    "GossipAsking": {"MaxBlocked": 0},
    "Refinement": {"MaxVersion": 1},
    "RefinementOfTwoRecords": {"MaxEpoch": 2},
    "Streams": {"MaxVersion": 1},
    "Views": {"MaxEpoch": 2},
}
"""Bounds of smoke models that are lowered here, because each model is checked once for each condition.

``CryptoStoreCache`` keeps its bound of two commits. It is the only model in which two transactions share a process, and
with one commit neither could overwrite what the other wrote.
"""

CONDITION_DEFINITIONS = {"CryptoStoreCache": ("MayBegin",)}
"""By module: the definitions that contain only conditions of an action. Their conjuncts are conditions too."""

FAIRNESS = "Fairness"
"""The name of the definition whose conjuncts are the fairness assumptions, in a module that has any."""

_COMMENT = re.compile(r"\(\*.*?\*\)|\\\*[^\n]*", re.DOTALL)
_DEFINITION = re.compile(r"^(\w+)(?:\([^)=]*\))? *==", re.MULTILINE)
_BULLET = re.compile(r"^ *(?:(?:IN|THEN|ELSE|IF|\\/) +)*(/\\) ", re.MULTILINE)
_TOKEN = re.compile(r"/\\|[()\[\]{}]|\\/|\\[EA] |=>|\bIF\b")
_FAULT = re.compile(r'Broken\("[^"]+"\)|TwoCommits')
_NOT_A_CONDITION = re.compile(r'^~(?:Broken\("[^"]+"\)|Unguarded\(o\))$|\bMax[A-Z]\w+|\bEpochsLeft\b|\bLongWrites\b')
"""Conjuncts that are not conditions: the switches of faults, and the bounds of a model."""

_PARSE_ERRORS = 150
"""From this exit code on, TLC could not read the specification."""

STATES_FACTOR_WITHOUT_CONDITION = 3
"""A model without a condition is stopped when TLC has found this many times the states of the model with it."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One conjunct, and its position in the text of its module."""

    module: str
    action: str
    text: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.module}!{self.action}: {self.text}"


@dataclass(frozen=True, slots=True)
class Fall:
    """What TLC found without a condition."""

    condition: Condition
    falls: str
    """The violated property, or the reason why the specification can't be evaluated. Empty if nothing is violated."""
    model: str
    """The model in which it was found."""
    unfinished: tuple[str, ...] = ()
    """The models that were stopped before they found a violation. They decide nothing."""


class Needed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition that some property needs, and the violation that TLC finds first without it."""

    action: str
    """The module and the action: ``LeaseLock!Call``."""
    condition: str
    falls: str
    model: str


class Unneeded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition that no property needs, and why it stays."""

    action: str
    """The module and the action: ``LeaseLock!Call``."""
    condition: str
    why: str


class ConditionList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``conditions.toml``. Each condition is in one of the two lists."""

    needed: list[Needed] = []
    unneeded: list[Unneeded] = []


def read_condition_list(manifest: Manifest) -> ConditionList:
    """Read ``conditions.toml``. Raises ``ManifestInvalid``."""
    path = manifest.folder / "conditions.toml"
    try:
        return msgspec.toml.decode(path.read_bytes(), type=ConditionList)
    except (OSError, msgspec.DecodeError) as error:
        raise ManifestInvalid(f"{path}: {error}") from error


def all_conditions(manifest: Manifest) -> list[Condition]:
    """Find the conditions of all modules."""
    return [
        condition
        for module in MODULES
        for condition in find_conditions(module, (manifest.folder.parent / f"{module}.tla").read_text(encoding="utf-8"))
    ]


def find_conditions(module: str, text: str) -> list[Condition]:
    """Find the conditions of all actions of a module."""
    plain = _plain(text)
    bodies = _bodies(plain)
    steps = _steps(plain, bodies)
    definitions = CONDITION_DEFINITIONS.get(module, ())
    names = [*re.findall(r"\w+", plain[slice(*bodies["Next"])]), *definitions]
    conditions: list[Condition] = []
    for action in dict.fromkeys(names):
        if action in bodies and (action in steps or action in definitions):
            parts = list(_conditions_within(plain, *bodies[action], steps))
            if not any(_FAULT.fullmatch(plain[slice(*part)]) for part in parts):
                conditions += [
                    Condition(module, action, " ".join(plain[first:last].split()), first, last)
                    for first, last in parts
                    if not _NOT_A_CONDITION.search(plain[first:last])
                ]
    if FAIRNESS in bodies:
        conditions += [
            Condition(module, FAIRNESS, " ".join(plain[first:last].split()), first, last)
            for first, last in _assumptions(plain, *bodies[FAIRNESS])
        ]
    return conditions


def _plain(text: str) -> str:
    """Return the text with its comments replaced by blanks."""
    return _COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text)


def _steps(plain: str, bodies: Mapping[str, tuple[int, int]]) -> set[str]:
    """Return the definitions that mention the next state, themselves or by a definition that they use."""
    words = {name: set(re.findall(r"\w+|'", plain[slice(*body)])) for name, body in bodies.items()}
    steps = {"'", "UNCHANGED"}
    while more := {name for name, used in words.items() if used & steps} - steps:
        steps |= more
    return steps


def _bodies(plain: str) -> dict[str, tuple[int, int]]:
    """Return the position of each definition's body, by its name."""
    found = list(_DEFINITION.finditer(plain))
    ends = [definition.start() for definition in found[1:]] + [len(plain)]
    bodies: dict[str, tuple[int, int]] = {}
    for definition, end in zip(found, ends, strict=True):
        rule = re.compile(r"^(?:-{4,}|={4,})", re.MULTILINE).search(plain, definition.end(), end)
        bodies[definition[1]] = (definition.end(), rule.start() if rule is not None else end)
    return bodies


def _conditions_within(plain: str, start: int, end: int, steps: set[str]) -> Iterator[tuple[int, int]]:
    for first, last in _conjuncts(plain, start, end):
        if steps.isdisjoint(re.findall(r"\w+|'", plain[first:last])):
            yield from _parts(plain, first, last)
        else:
            yield from _conditions_within(plain, first, last, steps)


def _assumptions(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for first, last in _conjuncts(plain, start, end):
        if within := list(_assumptions(plain, first, last)):
            yield from within
        else:
            yield from _parts(plain, first, last)


def _conjuncts(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the positions of the conjuncts in the outermost lists, without their bullets."""
    bullets = [(match.start(1), match.start(1) - match.start()) for match in _BULLET.finditer(plain, start, end)]
    done = start
    for place, column in bullets:
        if place < done:
            continue
        # A conjunct ends before the next line that is not indented further than its bullet.
        following = re.compile(rf"\n(?=[ ]{{0,{column}}}[^ \n])").search(plain, place, end)
        done = following.start() if following is not None else end
        yield place + 2, len(plain[:done].rstrip())


def _parts(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the positions of the conditions that share one bullet."""
    cuts, depth = [start], 0
    for token in _TOKEN.finditer(plain, start, end):
        if token[0] in "([{" or token[0] in ")]}":
            depth += 1 if token[0] in "([{" else -1
        elif depth == 0 and token[0] == "/\\":
            cuts += [token.start(), token.end()]
        elif depth == 0:
            cuts = [start]  # everything after this token is one condition
            break
    for first, last in zip(cuts[::2], [*cuts[1::2], end], strict=True):
        text = plain[first:last]
        yield first + len(text) - len(text.lstrip()), first + len(text.rstrip())


def without(condition: Condition, text: str) -> str:
    """Return the module's text without the condition. Raises ``CheckError`` if it has moved."""
    if " ".join(_plain(text)[condition.start : condition.end].split()) != condition.text:
        raise CheckError(f"{condition}: {condition.module}.tla no longer has this condition at its position")
    removed = re.sub(r"[^\n]", " ", text[condition.start : condition.end])
    return text[: condition.start] + "TRUE" + removed[4:] + text[condition.end :]


async def what_falls(toolbox: Toolbox, manifest: Manifest, condition: Condition) -> Fall:
    """Remove a condition, and check the smoke models, the smallest first, until one of them fails."""
    text = (manifest.folder.parent / f"{condition.module}.tla").read_text(encoding="utf-8")
    unfinished: list[str] = []
    for model in _models(manifest, condition.module):
        with tempfile.TemporaryDirectory(prefix="unwedged-conditions-") as scratch:
            job = _job_without(manifest, model, condition, text, Path(scratch))
            result = await run(toolbox, job)
        if result.verdict is Verdict.ERROR:
            if result.exit_code >= _PARSE_ERRORS:
                raise CheckError(f"{condition}: the specification can't be read without it: {result.detail}")
            return Fall(condition, "it can't be evaluated", model.name)
        if result.verdict in (Verdict.SAFETY, Verdict.LIVENESS):
            return Fall(condition, result.property or "one of its properties", model.name)
        if result.verdict is not Verdict.PASS:
            unfinished.append(model.name)
    return Fall(condition, "", "", tuple(unfinished))


def _models(manifest: Manifest, module: str) -> list[Model]:
    models = [model for model in manifest.band(Band.SMOKE) if model.specification == MODULES[module]]
    return sorted(models, key=lambda model: model.distinct_states)


def _job_without(manifest: Manifest, model: Model, condition: Condition, text: str, scratch: Path) -> Job:
    # TLC looks for modules in the specification's own folder before it looks in the library.
    job = manifest.job(model)
    (scratch / f"{condition.module}.tla").write_text(without(condition, text), encoding="utf-8")
    specification = scratch / model.specification
    specification.write_bytes(job.specification.read_bytes())
    configuration = scratch / f"{model.name}.cfg"
    # TypeOK is removed: it only states types, and is not a guarantee.
    settings = re.sub(r"\bTypeOK\b", "", job.configuration.read_text(encoding="utf-8"))
    for bound, number in LOWERED_BOUNDS.get(model.name, {}).items():
        settings = re.sub(rf"\b{bound} = \d+", f"{bound} = {number}", settings)
    configuration.write_text(settings, encoding="utf-8")
    return replace(
        job,
        specification=specification,
        configuration=configuration,
        library=(manifest.folder, manifest.folder.parent),
        max_states=STATES_FACTOR_WITHOUT_CONDITION * model.distinct_states,
    )


async def take_out(
    toolbox: Toolbox, manifest: Manifest, conditions: Sequence[Condition], on_fall: Callable[[Fall], None]
) -> None:
    """Remove each condition in turn, as many at once as there are cores. ``on_fall`` gets each result."""
    cores = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(condition: Condition) -> None:
        async with cores:
            on_fall(await what_falls(toolbox, manifest, condition))

    async with asyncio.TaskGroup() as group:
        for condition in conditions:
            group.create_task(one(condition))


def discrepancies(falls: Sequence[Fall], listed: ConditionList, conditions: Sequence[Condition]) -> list[str]:
    """Return a line for each difference from ``conditions.toml``, and for each condition that was not decided."""
    needed = {(entry.action, entry.condition) for entry in listed.needed}
    unneeded = {(entry.action, entry.condition) for entry in listed.unneeded}
    wrong = []
    for fall in falls:
        listing = (f"{fall.condition.module}!{fall.condition.action}", fall.condition.text)
        if fall.falls and listing in unneeded:
            wrong.append(f"{fall.condition}: {fall.falls} needs it, but conditions.toml says that nothing does")
        elif fall.falls and listing not in needed:
            wrong.append(f"{fall.condition}: {fall.falls} needs it, but conditions.toml does not list it")
        elif fall.unfinished:
            ended = ", ".join(fall.unfinished)
            wrong.append(f"{fall.condition}: not decided, because TLC was stopped in these models: {ended}")
        elif not fall.falls and listing in needed:
            wrong.append(f"{fall.condition}: no property needs it, but conditions.toml says that one does")
        elif not fall.falls and listing not in unneeded:
            wrong.append(f"{fall.condition}: no property needs it, but conditions.toml does not say why it stays")
    there = {(f"{condition.module}!{condition.action}", condition.text) for condition in conditions}
    gone = sorted((needed | unneeded) - there)
    return wrong + [f"{action}: {text}: conditions.toml lists it, but no module has it" for action, text in gone]
