"""The replay of the module Backup notices a broken machine."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from checking.machine_replay.counterparts import COUNTERPARTS
from checking.models.manifest import Manifest
from checking.tlc.graph import Graph
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import ModelValue, State, Value, function, record
from tests.checking.machine_breaks import Break, graph_of
from unwedged.machine import backup
from unwedged.machine.backup import NewBackupVersion
from unwedged.machine.identifiers import GroupSessionName, JsonObject
from unwedged.machine.records import BACKUP, UNBACKED, InboundSession
from unwedged.machine.requests import BackupUpload, BackupVersionQuery
from unwedged.store import Transaction, View

BACKUPS = COUNTERPARTS["MCBackup.tla"]
MOST_STEPS = 2_000
"""The replay notices each break of the machine within this number of steps."""
ONE_VERSION = "ReplayBackup"
TWO_VERSIONS = "ReplayBackupOfTwoVersions"
TWO_SESSIONS = "ReplayBackupOfTwoSessions"


@pytest.fixture(scope="module")
def graphs(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Graph]:
    names = (ONE_VERSION, TWO_VERSIONS, TWO_SESSIONS)
    return {name: graph_of(toolbox, manifest, name, tmp_path_factory.mktemp("graph")) for name in names}


# Breaks that a replay must notice

sound_note = backup.note_room_key
sound_create = backup.create_version
sound_version = backup.mark_version
sound_refused = backup.mark_refused
sound_uploads = backup.uploads


async def _mark_nothing(transaction: Transaction, name: GroupSessionName, offered: InboundSession) -> None:
    del transaction, name, offered


async def _mark_whatever_comes(transaction: Transaction, name: GroupSessionName, offered: InboundSession) -> None:
    del offered
    if await transaction.get(BACKUP, None) is not None:
        backup.mark(transaction, name)


async def _make_another_key(transaction: Transaction) -> NewBackupVersion:
    """Create another key even while one waits for its version."""
    known = await transaction.get(BACKUP, None)
    if known is not None:
        transaction.delete(BACKUP, None)
    return await sound_create(transaction)


async def _take_any_answer(transaction: Transaction, request: BackupVersionQuery, response: JsonObject) -> None:
    del request
    await sound_version(transaction, await backup.version_query(transaction), response)


async def _take_version_while_making(
    transaction: Transaction, request: BackupVersionQuery, response: JsonObject
) -> None:
    """Let another version replace the one that is being created."""
    known = await transaction.get(BACKUP, None)
    if known is not None and known.version is None:
        transaction.delete(BACKUP, None)
        request = BackupVersionQuery(None, None)
    await sound_version(transaction, request, response)


async def _keep_marks(transaction: Transaction, request: BackupVersionQuery, response: JsonObject) -> None:
    """Keep the old marks when the version changes."""
    marks = {}
    for name in await transaction.keys(UNBACKED):
        mark = await transaction.get(UNBACKED, name)
        assert mark is not None  # listed above
        marks[name] = mark
    await sound_version(transaction, request, response)
    for name in await transaction.keys(UNBACKED):
        number = marks.get(name)
        if number is None:
            transaction.delete(UNBACKED, name)
        else:
            transaction.put(UNBACKED, name, number)


async def _mark_again(transaction: Transaction, request: BackupVersionQuery, response: JsonObject) -> None:
    """Mark room keys again, although the version has not changed."""
    await sound_version(transaction, request, response)
    for name in await transaction.keys(UNBACKED):
        backup.mark(transaction, name)


async def _refuse_any(transaction: Transaction, request: BackupUpload | BackupVersionQuery) -> None:
    known = await transaction.get(BACKUP, None)
    if known is None:
        await sound_refused(transaction, request)
    else:
        transaction.put(BACKUP, None, msgspec.structs.replace(known, refused=True))


async def _upload_to_any(reading: Transaction | View) -> list[BackupUpload]:
    """Upload even to a refused version."""
    known = await reading.get(BACKUP, None)
    if known is None or not known.refused:
        return await sound_uploads(reading)
    assert isinstance(reading, Transaction)
    reading.put(BACKUP, None, msgspec.structs.replace(known, refused=False))
    uploads = await sound_uploads(reading)
    reading.put(BACKUP, None, known)
    return uploads


async def _settle_all(transaction: Transaction, request: BackupUpload, response: JsonObject) -> None:
    """Let an upload remove the marks of all room keys, not only of the uploaded ones."""
    del request, response
    for name in await transaction.keys(UNBACKED):
        transaction.delete(UNBACKED, name)


BREAKS = {
    "an upload of some room keys settles all": (
        TWO_SESSIONS,
        Break([(backup, "mark_uploaded", _settle_all)], r"store\.unbacked\.s\d: .* the machine Nothing"),
    ),
    "a room key that comes is not marked": (
        TWO_SESSIONS,
        Break([(backup, "note_room_key", _mark_nothing)], r"store\.unbacked\.s\d"),
    ),
    "a room key from the backup is marked": (
        TWO_SESSIONS,
        Break([(backup, "note_room_key", _mark_whatever_comes)], r"store\.unbacked\.s\d"),
    ),
    "there are two keys for one version": (
        ONE_VERSION,
        Break([(backup, "create_version", _make_another_key)], r"store\.(backup\.key|keys)"),
    ),
    "a late answer about the version counts": (
        TWO_VERSIONS,
        Break([(backup, "mark_version", _take_any_answer)], r"a new mark, but nothing has changed"),
    ),
    "a version that is being made gives way": (
        ONE_VERSION,
        Break([(backup, "mark_version", _take_version_while_making)], r"store\.(backup|unbacked)"),
    ),
    "marks outlive their version": (
        TWO_VERSIONS,
        Break([(backup, "mark_version", _keep_marks)], r"store\.unbacked\.s1"),
    ),
    "a mark is made again without a reason": (
        ONE_VERSION,
        Break([(backup, "mark_version", _mark_again)], r"a new mark, but nothing has changed"),
    ),
    "a refusal by an older version counts": (
        TWO_VERSIONS,
        Break([(backup, "mark_refused", _refuse_any)], r"store\.backup\.refused: the model has FALSE"),
    ),
    "a version that was refused gets room keys": (
        TWO_VERSIONS,
        Break([(backup, "uploads", _upload_to_any)], r"does not allow the step AskUpload"),
    ),
    **{
        slug: (graph, Break(BACKUPS.faults[slug](), told))
        for slug, graph, told in (
            ("backup-flag-race", ONE_VERSION, r"store\.unbacked\.s1: .* the machine Nothing"),
            ("two-keys-one-version", ONE_VERSION, r"store\.backup\.version: the model has 0, the machine 1"),
            ("backup-off-after-invalidation", ONE_VERSION, r"store\.backup"),
            ("untrusted-version-taken", TWO_VERSIONS, r"does not allow the step AskUpload"),
            ("restored-from-older-version", TWO_VERSIONS, r"does not allow the step Restore"),
        )
    },
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_machine_diverges(graphs: Mapping[str, Graph], monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    graph, breaking = BREAKS[broken]
    breaking.must_diverge(monkeypatch, graphs[graph], BACKUPS, MOST_STEPS)


# Properties

P1, S1, NOTHING = map(ModelValue, ("p1", "s1", "Nothing"))


def backed_up(index: int, key: int, version: int = 1) -> Value:
    return record(version=version, session=S1, index=index, key=key)


def backup_state(
    *,
    versions: tuple[Value, ...] = (1,),
    backed: frozenset[Value] = frozenset({backed_up(0, 1)}),
    unbacked: Value = NOTHING,
    version: int = 1,
    key: int = 1,
    refused: bool = False,
    flight: Value = NOTHING,
) -> State:
    return {
        "server": record(versions=versions, backed=backed),
        "store": record(
            first=function({S1: 0}),
            unbacked=function({S1: unbacked}),
            backup=record(version=version, key=key, refused=refused),
            keys=1,
        ),
        "flight": function({P1: flight}),
    }


ASKED = record(stage="version", version=1, key=1, newest=2, newestKey=99)
RIGHT = {
    "it is backed up": (backup_state(), backup_state()),
    "it is marked": (backup_state(), backup_state(backed=frozenset(), unbacked=(1, 1, 0))),
    "there is no backup": (backup_state(version=0, key=0, backed=frozenset()),) * 2,
    "it is refused": (
        backup_state(flight=record(stage="refused")),
        backup_state(refused=True),
    ),
    "another version is learned": (
        backup_state(flight=ASKED, versions=(1, 99)),
        backup_state(versions=(1, 99), version=2, key=99, unbacked=(2, 99, 0)),
    ),
    "another version is made": (
        backup_state(),
        backup_state(version=0, key=1, unbacked=(0, 1, 0), flight=record(stage="create", key=1)),
    ),
}


@pytest.mark.parametrize("right", RIGHT)
def test_what_is_right_is_accepted(right: str) -> None:
    assert [holds(*RIGHT[right]) for holds in BACKUPS.properties.values()] == [None] * 4


WRONG = {
    "it is not backed up": (
        backup_state(),
        backup_state(backed=frozenset()),
        "BackedUpIsBest",
        "s1 counts as backed up from message 0 on",
    ),
    "only a worse one is": (
        backup_state(),
        backup_state(backed=frozenset({backed_up(1, 1)})),
        "BackedUpIsBest",
        "s1 counts as backed up from message 0 on",
    ),
    "it is in no version": (
        backup_state(unbacked=(0, 1, 0), version=0),
        backup_state(version=0),
        "BackedUpIsBest",
        "s1 counts as backed up",
    ),
    "it is encrypted for another key": (
        backup_state(unbacked=(1, 1, 0)),
        backup_state(unbacked=(1, 1, 0), versions=(98,)),
        "OneKeyPerVersion",
        "encrypted for another key, 1",
    ),
    "it is encrypted for a key that is not trusted": (
        backup_state(unbacked=(1, 1, 0)),
        backup_state(unbacked=(1, 1, 0), versions=(99,), backed=frozenset({backed_up(0, 99)})),
        "OnlyToTrusted",
        "encrypted for 99",
    ),
    "the backup is forgotten": (
        backup_state(flight=ASKED),
        backup_state(version=0, key=0),
        "SurvivesInvalidation",
        "the backup is off",
    ),
    "the backup is refused by nobody": (
        backup_state(),
        backup_state(refused=True),
        "SurvivesInvalidation",
        "the backup is off",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_reported(wrong: str) -> None:
    was, now, violated, told = WRONG[wrong]
    found = {name: detail for name, holds in BACKUPS.properties.items() if (detail := holds(was, now)) is not None}
    assert found.keys() == {violated}
    assert told in found[violated]
