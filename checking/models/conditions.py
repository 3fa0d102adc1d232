"""Which property needs which condition: each is taken out of its action, one at a time, and TLC says what falls.

A condition is a conjunct of an action that says nothing of the next state. What is assumed about fairness is taken out
likewise. What a smoke model then finds is the answer; how many states it has says nothing. A condition that no property
needs may be superfluous, or something that it protects is not stated. ``tla/models/conditions.toml`` lists which
property falls without which condition, and of each condition that no property needs why it stays.
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
"""The modules whose conditions are taken out, and what makes them finite."""

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
"""The bounds of the smoke models that are lowered here, where each is checked so many times.

``CryptoStoreCache`` keeps its two commits: only there do two transactions share a process, and with one commit neither
could overwrite what the other wrote.
"""

CONDITION_DEFINITIONS = {"CryptoStoreCache": ("MayBegin",)}
"""By module: definitions that are nothing but conditions of an action. Their conjuncts are conditions too."""

FAIRNESS = "Fairness"
"""The definition, where a module has it, of which each conjunct is an assumption."""

_COMMENT = re.compile(r"\(\*.*?\*\)|\\\*[^\n]*", re.DOTALL)
_DEFINITION = re.compile(r"^(\w+)(?:\([^)=]*\))? *==", re.MULTILINE)
_BULLET = re.compile(r"^ *(?:(?:IN|THEN|ELSE|IF|\\/) +)*(/\\) ", re.MULTILINE)
_TOKEN = re.compile(r"/\\|[()\[\]{}]|\\/|\\[EA] |=>|\bIF\b")
_FAULT = re.compile(r'Broken\("[^"]+"\)|TwoCommits')
_NOT_A_CONDITION = re.compile(r'^~(?:Broken\("[^"]+"\)|Unguarded\(o\))$|\bMax[A-Z]\w+|\bEpochsLeft\b|\bLongWrites\b')
"""Switches of faults, and what bounds a model."""

_PARSE_ERRORS = 150
"""TLC's exit codes from here on mean that it could not even read the specification."""

STATES_FACTOR_WITHOUT_CONDITION = 3
"""A model without a condition is ended when TLC has found so many times the states that it has with it."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One conjunct, and where in its module it is."""

    module: str
    action: str
    text: str
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.module}!{self.action}: {self.text}"


@dataclass(frozen=True, slots=True)
class Fall:
    """What came of taking a condition out."""

    condition: Condition
    falls: str
    """The property; or why there is no such thing as the specification without the condition; or nothing."""
    model: str
    """The model that found it."""
    unfinished: tuple[str, ...] = ()
    """The models that were ended before they found anything. They say nothing."""


class Needed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition that some property needs, and what TLC found first without it."""

    action: str
    """With its module: ``LeaseLock!Call``."""
    condition: str
    falls: str
    model: str


class Unneeded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A condition that no property needs, and why it stays."""

    action: str
    """With its module: ``LeaseLock!Call``."""
    condition: str
    why: str


class ConditionList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``conditions.toml`` says: each condition is in one of the lists."""

    needed: list[Needed] = []
    unneeded: list[Unneeded] = []


def read_condition_list(manifest: Manifest) -> ConditionList:
    """Read what is known of the conditions."""
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
    """Return the text with blanks in the place of its comments."""
    return _COMMENT.sub(lambda comment: re.sub(r"[^\n]", " ", comment[0]), text)


def _steps(plain: str, bodies: Mapping[str, tuple[int, int]]) -> set[str]:
    """Return the definitions that say something of the next state, or whose own definitions do."""
    words = {name: set(re.findall(r"\w+|'", plain[slice(*body)])) for name, body in bodies.items()}
    steps = {"'", "UNCHANGED"}
    while more := {name for name, used in words.items() if used & steps} - steps:
        steps |= more
    return steps


def _bodies(plain: str) -> dict[str, tuple[int, int]]:
    """Return where the body of each definition is."""
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
    """Return where the conjuncts of the outermost lists are, without their bullets."""
    bullets = [(match.start(1), match.start(1) - match.start()) for match in _BULLET.finditer(plain, start, end)]
    done = start
    for place, column in bullets:
        if place < done:
            continue
        # It reaches to the next line that begins no further to the right.
        following = re.compile(rf"\n(?=[ ]{{0,{column}}}[^ \n])").search(plain, place, end)
        done = following.start() if following is not None else end
        yield place + 2, len(plain[:done].rstrip())


def _parts(plain: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Split what several conditions share a bullet."""
    cuts, depth = [start], 0
    for token in _TOKEN.finditer(plain, start, end):
        if token[0] in "([{" or token[0] in ")]}":
            depth += 1 if token[0] in "([{" else -1
        elif depth == 0 and token[0] == "/\\":
            cuts += [token.start(), token.end()]
        elif depth == 0:
            cuts = [start]  # what follows it belongs together
            break
    for first, last in zip(cuts[::2], [*cuts[1::2], end], strict=True):
        text = plain[first:last]
        yield first + len(text) - len(text.lstrip()), first + len(text.rstrip())


def without(condition: Condition, text: str) -> str:
    """Return the module's text without the condition."""
    if " ".join(_plain(text)[condition.start : condition.end].split()) != condition.text:
        raise CheckError(f"{condition}: it is no longer where it was in {condition.module}.tla")
    removed = re.sub(r"[^\n]", " ", text[condition.start : condition.end])
    return text[: condition.start] + "TRUE" + removed[4:] + text[condition.end :]


async def what_falls(toolbox: Toolbox, manifest: Manifest, condition: Condition) -> Fall:
    """Take a condition out, and check the smoke models, the smallest first, until one notices."""
    text = (manifest.folder.parent / f"{condition.module}.tla").read_text(encoding="utf-8")
    unfinished: list[str] = []
    for model in _models(manifest, condition.module):
        with tempfile.TemporaryDirectory(prefix="unwedged-conditions-") as scratch:
            job = _job_without(manifest, model, condition, text, Path(scratch))
            result = await run(toolbox, job)
        if result.verdict is Verdict.ERROR:
            if result.exit_code >= _PARSE_ERRORS:
                raise CheckError(f"{condition}: taking it out makes no specification: {result.detail}")
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
    # What is beside the specification comes before what is in the library.
    job = manifest.job(model)
    (scratch / f"{condition.module}.tla").write_text(without(condition, text), encoding="utf-8")
    specification = scratch / model.specification
    specification.write_bytes(job.specification.read_bytes())
    configuration = scratch / f"{model.name}.cfg"
    # A type is no promise.
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
    """Take each condition out, as many at once as there are cores, and tell of each what falls."""
    cores = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(condition: Condition) -> None:
        async with cores:
            on_fall(await what_falls(toolbox, manifest, condition))

    async with asyncio.TaskGroup() as group:
        for condition in conditions:
            group.create_task(one(condition))


def discrepancies(falls: Sequence[Fall], listed: ConditionList, conditions: Sequence[Condition]) -> list[str]:
    """Return what is not as listed, or not known: what falls or does not, and what is listed and not there."""
    needed = {(entry.action, entry.condition) for entry in listed.needed}
    unneeded = {(entry.action, entry.condition) for entry in listed.unneeded}
    wrong = []
    for fall in falls:
        place = (f"{fall.condition.module}!{fall.condition.action}", fall.condition.text)
        if fall.falls and place in unneeded:
            wrong.append(f"{fall.condition}: {fall.falls} needs it, but conditions.toml says that nothing does")
        elif fall.falls and place not in needed:
            wrong.append(f"{fall.condition}: {fall.falls} needs it, and conditions.toml does not say so")
        elif fall.unfinished:
            ended = ", ".join(fall.unfinished)
            wrong.append(f"{fall.condition}: nobody knows whether a property needs it, because TLC was ended: {ended}")
        elif not fall.falls and place in needed:
            wrong.append(f"{fall.condition}: no property needs it, but conditions.toml says that one does")
        elif not fall.falls and place not in unneeded:
            wrong.append(f"{fall.condition}: no property needs it, and conditions.toml does not say why it stays")
    there = {(f"{condition.module}!{condition.action}", condition.text) for condition in conditions}
    gone = sorted((needed | unneeded) - there)
    return wrong + [f"{action}: {text}: conditions.toml has it, and it is not there" for action, text in gone]
