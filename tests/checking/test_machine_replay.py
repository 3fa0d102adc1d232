"""The replays of the models of the Matrix device notice a broken machine.

``python -m checking replay NAME`` takes every transition of a model once. ``python -m checking check`` replays every
fault, with its injection and without. Here a few of them show that a replay fails when it should.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from checking.errors import CheckError
from checking.machine_replay import drive
from checking.machine_replay.counterexamples import replay_counterexample
from checking.machine_replay.counterparts import COUNTERPARTS
from checking.machine_replay.drive import Coverage, Dump, replay_dumps
from checking.models.manifest import Band, Layer, Manifest, Model, find_manifest, read_manifest
from checking.tlc import run as tlc
from checking.tlc.graph import Graph, read_graph
from checking.tlc.run import Result, Verdict
from checking.tlc.toolbox import Toolbox
from checking.tlc.values import ModelValue, State, function, record
from tests.checking.machine_breaks import Break, graph_of
from unwedged.machine import SyncPosition, account, devices, inbox
from unwedged.machine.identifiers import Curve25519Key, JsonObject, UserId
from unwedged.machine.ratchets import Account
from unwedged.machine.records import OUTDATED, OWN_DEVICE, TRACKED, OwnDevice, ReportedKeys, Tracked
from unwedged.machine.requests import KeysQuery, KeysUpload
from unwedged.store import Transaction

MOST_STEPS = 2_000
"""The replay notices each break of the machine within this number of steps."""


def note_nothing(taken: int, of: int) -> None:
    pass


@pytest.fixture(scope="session")
def found(toolbox: Toolbox, manifest: Manifest) -> Callable[[Model], Result]:
    """Return a function that finds a model's counterexample with the real TLC."""
    return lambda model: asyncio.run(tlc.run(toolbox, manifest.job(model)))


@pytest.fixture(scope="session")
def graph(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Graph:
    return graph_of(toolbox, manifest, "ReplayListsAnew", tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="session")
def small_dump(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let TLC write the graph of a smaller model."""
    folder = tmp_path_factory.mktemp("small")
    job = manifest.job(manifest.model("ReplayLists"), folder / "small.dot")
    configuration = folder / "Small.cfg"
    text = job.configuration.read_text(encoding="utf-8")
    configuration.write_text(text.replace("{classic, sliding}", "{classic}").replace("{sliding}", "{}"))
    specification = folder / job.specification.name
    specification.write_bytes(job.specification.read_bytes())
    asyncio.run(tlc.run(toolbox, replace(job, specification=specification, configuration=configuration)))
    return folder / "small.dot"


# The models


def machine_faults(manifest: Manifest, specification: str) -> list[Model]:
    return [
        model
        for model in manifest.band(Band.FAULT)
        if model.specification == specification and model.layer is Layer.MACHINE
    ]


@pytest.mark.parametrize("specification", COUNTERPARTS)
def test_every_fault_of_a_module_is_injected_and_every_property_that_it_violates_is_asked(
    manifest: Manifest, specification: str
) -> None:
    models, kind = machine_faults(manifest, specification), COUNTERPARTS[specification]
    assert {model.slug for model in models} == kind.faults.keys()
    of_steps = {model.property for model in models if model.expected is not Verdict.LIVENESS}
    assert of_steps <= kind.properties.keys()
    of_endless = {model.property for model in models if model.expected is Verdict.LIVENESS}
    assert of_endless == kind.wanted.keys()


def test_every_module_that_has_a_counterpart_has_a_graph_to_replay(manifest: Manifest) -> None:
    assert COUNTERPARTS.keys() <= {model.specification for model in manifest.band(Band.REPLAY)}


# Breaks that a replay must notice


async def _note_nobody(transaction: Transaction, user_ids: Iterable[UserId] = ()) -> None:
    del transaction, user_ids


def _mark_without_a_new_number(transaction: Transaction, user_id: UserId, tracked: Tracked | None) -> None:
    del tracked
    transaction.put(TRACKED, user_id, Tracked(1))
    transaction.put(OUTDATED, user_id, 1)


async def _ask_for_all(transaction: Transaction) -> list[KeysQuery]:
    numbers = {}
    for user_id in await transaction.keys(TRACKED):
        tracked = await transaction.get(TRACKED, user_id)
        assert tracked is not None
        numbers[user_id] = tracked.number
    return [KeysQuery(numbers)] if numbers else []


async def _forget_nothing(transaction: Transaction, asked_with: SyncPosition) -> None:
    del transaction, asked_with


async def _settle_nothing(transaction: Transaction, request: KeysQuery, response: JsonObject) -> None:
    del transaction, request, response


BREAKS = {
    "a change is not marked": Break([(devices, "note_changed", _note_nobody)], r"store\.outdated\.u\d: the model has"),
    "a number is used twice": Break([(devices, "mark", _mark_without_a_new_number)], r"store\.(outdated|next)"),
    "what is known is asked for": Break([(devices, "queries", _ask_for_all)], r"does not allow the step AnswerQuery"),
    "a token is not forgotten": Break([(inbox, "forget_position", _forget_nothing)], r"store\.token\.sliding"),
    "an answer is lost": Break([(devices, "take_query_answer", _settle_nothing)], r"store\.(known|outdated)"),
    **{slug: Break(fault(), r"the model has") for slug, fault in COUNTERPARTS["MCLists.tla"].faults.items()},
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_machine_diverges(graph: Graph, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    BREAKS[broken].must_diverge(monkeypatch, graph, COUNTERPARTS["MCLists.tla"], MOST_STEPS)


def _reported_as_said(own: OwnDevice, asked_with: SyncPosition, said: ReportedKeys) -> ReportedKeys:
    del own, asked_with
    return said


async def _abandon_nothing(transaction: Transaction, request: KeysUpload) -> None:
    del transaction, request


sound_note_counts = account.note_counts
sound_make_one_time_keys = Account.make_one_time_keys


async def _note_the_first_counts(transaction: Transaction, asked_with: SyncPosition, said: ReportedKeys) -> None:
    """Let a count invalidate the reports of other syncs that were requested before it arrived."""
    await sound_note_counts(transaction, asked_with, said)
    own = await account.own_device(transaction)
    if said.unused_fallback_types is not None and asked_with.serial == own.serial:
        own.serial += 1
        transaction.put(OWN_DEVICE, None, own)


def _make_one_key(keys: Account, count: int) -> dict[str, Curve25519Key]:
    return sound_make_one_time_keys(keys, min(1, count))


KEYS_BREAKS = {
    "what a connection was told is forgotten": (
        "ReplayKeysOfBadMessages",
        Break([(account, "reported_now", _reported_as_said)], r"store\.(missing|reported)"),
    ),
    "an offer is not abandoned": (
        "ReplayKeysOfBadMessages",
        Break([(account, "abandon_offer", _abandon_nothing)], r"store\.offer"),
    ),
    "of two syncs at once, the first to come is believed": (
        "ReplayKeysOfTwoSyncs",
        Break([(account, "note_counts", _note_the_first_counts)], r"store\.(missing|used)"),
    ),
    "of two syncs at once, the first to come is believed about the fallback key": (
        "ReplayKeysFallbackOfTwoSyncs",
        Break([(account, "note_counts", _note_the_first_counts)], r"store\.used"),
    ),
    "one key is offered where two are lacking": (
        "ReplayKeysOfTwoKeys",
        Break([(Account, "make_one_time_keys", _make_one_key)], r"store\.(next|private)"),
    ),
}


@pytest.fixture(scope="session")
def keys_graphs(toolbox: Toolbox, manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Graph]:
    names = sorted({name for name, _ in KEYS_BREAKS.values()})
    return {name: graph_of(toolbox, manifest, name, tmp_path_factory.mktemp("keys")) for name in names}


@pytest.mark.parametrize("broken", KEYS_BREAKS)
def test_a_machine_whose_keys_are_broken_diverges(
    keys_graphs: Mapping[str, Graph], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    name, broken_alike = KEYS_BREAKS[broken]
    broken_alike.must_diverge(monkeypatch, keys_graphs[name], COUNTERPARTS["MCKeys.tla"], MOST_STEPS)


def test_a_machine_that_replaces_fallback_keys_early_diverges(
    toolbox: Toolbox, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = graph_of(toolbox, manifest, "ReplayKeysFallback", tmp_path)
    early = Break(COUNTERPARTS["MCKeys.tla"].faults["fallback-cycled-early"](), r"store\.fallback: the model has 1")
    early.must_diverge(monkeypatch, graph, COUNTERPARTS["MCKeys.tla"], MOST_STEPS)


def of_dump(path: Path, specification: str = "MCLists.tla") -> Dump:
    return Dump("Some", specification, path)


def test_each_transition_is_covered_and_reported(small_dump: Path) -> None:
    edges = read_graph(small_dump).edges
    progress: list[tuple[int, int]] = []
    [report] = replay_dumps([of_dump(small_dump)], lambda taken, of: progress.append((taken, of)))
    assert (report.model, report.transitions, report.covered) == ("Some", len(edges), len(edges))
    assert progress[-1][0] == len(edges)
    assert report.repeated == sum(edge.action in ("ReceiveSync", "MarkSent") for edge in edges)
    assert report.refused > 0


def test_a_graph_without_a_transition_is_refused(small_dump: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.dot"
    lines = small_dump.read_text(encoding="utf-8").splitlines(keepends=True)
    empty.write_text(next(line for line in lines if "style = filled" in line), encoding="utf-8")
    with pytest.raises(CheckError, match="Some: there is no transition to replay"):
        replay_dumps([of_dump(empty)], note_nothing)


def test_a_module_without_a_counterpart_is_refused(small_dump: Path) -> None:
    with pytest.raises(CheckError, match="Some: there is no counterpart of Other"):
        replay_dumps([of_dump(small_dump, "Other")], note_nothing)


def test_a_transition_that_was_not_covered_is_missed(small_dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def cover_nothing(*_: object) -> Coverage:
        return Coverage()

    monkeypatch.setattr(drive, "replay", cover_nothing)
    with pytest.raises(CheckError, match=r"Some: \d+ transitions were not covered"):
        drive._replay_dump(of_dump(small_dump))


# Faults


def found_first(manifest: Manifest) -> list[str]:
    """Return the fault whose counterexample TLC finds first, of each module and for each kind of violation."""
    models = sorted(
        (
            model
            for specification in COUNTERPARTS
            for model in machine_faults(manifest, specification)
            if model.name == f"fault-{model.slug}"
        ),
        key=lambda model: -model.distinct_states,
    )
    return sorted({(model.specification, model.expected): str(model.slug) for model in models}.values())


@pytest.mark.parametrize("slug", found_first(read_manifest(find_manifest(Path(__file__).parent))))
def test_the_machine_broken_alike_violates_the_same_property(
    manifest: Manifest, found: Callable[[Model], Result], slug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = manifest.model(f"fault-{slug}")
    assert model.property is not None
    result = found(model)
    assert replay_counterexample(model.specification, slug, model.property, result) == model.property
    # Without the fault nothing is violated, and the check reports this.
    monkeypatch.setattr(COUNTERPARTS[model.specification], "faults", {slug: list})
    with pytest.raises(CheckError, match=f"{slug}: with the fault injected, {model.property} holds"):
        replay_counterexample(model.specification, slug, model.property, result)
    with pytest.raises(CheckError, match="there is no counterexample to replay"):
        replay_counterexample(model.specification, slug, model.property, replace(result, trace=()))


@pytest.fixture(scope="session")
def round_for_ever(manifest: Manifest, found: Callable[[Model], Result]) -> Callable[[int | None], str]:
    """Return a function that replays a counterexample with a loop, which may be said to begin at another state."""
    result = found(manifest.model("fault-backup-flag-race-EverythingIsBackedUp"))

    def replayed(lasso: int | None = None) -> str:
        again = replace(result, lasso=result.lasso if lasso is None else lasso)
        return replay_counterexample("MCBackup.tla", "backup-flag-race", "EverythingIsBackedUp", again)

    assert result.lasso is not None
    assert len(result.trace) - result.lasso > 3  # two version queries, and a download that is restored
    return replayed


def test_a_counterexample_that_goes_round_for_ever_is_replayed(
    round_for_ever: Callable[[int | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = COUNTERPARTS["MCBackup.tla"]
    assert round_for_ever(None) == "EverythingIsBackedUp"
    with pytest.raises(CheckError, match="with the fault injected, EverythingIsBackedUp holds"):
        round_for_ever(6)  # there the other process can list an upload, which leads out of the loop
    with monkeypatch.context() as changed:
        changed.setattr(kind, "wanted", {"EverythingIsBackedUp": bool})
        with pytest.raises(CheckError, match="with the fault injected, EverythingIsBackedUp holds"):
            round_for_ever(None)
    monkeypatch.setattr(kind, "faults", {"backup-flag-race": list})
    with pytest.raises(CheckError, match="with the fault injected, EverythingIsBackedUp holds"):
        round_for_ever(None)


# Properties

NONE, U1, CLASSIC, SLIDING = map(ModelValue, ("None", "u1", "classic", "sliding"))


def lists_state(known: object, outdated: object, classic: int, sliding: object) -> State:
    return {
        "store": record(
            tracked=frozenset({U1}),
            known=function({U1: known}),  # type: ignore[dict-item]
            outdated=function({U1: outdated}),  # type: ignore[dict-item]
            token=function({CLASSIC: classic, SLIDING: sliding}),  # type: ignore[dict-item]
        ),
        "server": record(changed=function({U1: 2})),
    }


RIGHT = {
    "current": lists_state(2, NONE, 2, 2),
    "marked": lists_state(1, 3, 2, 2),
    "not told yet": lists_state(1, NONE, 1, NONE),
}


@pytest.mark.parametrize("state", RIGHT.values(), ids=RIGHT)
def test_what_is_right_is_accepted(state: State) -> None:
    assert COUNTERPARTS["MCLists.tla"].properties["DirtyNotLost"](state, state) is None


@pytest.mark.parametrize("sliding", [2, NONE])
def test_a_lost_change_is_reported(sliding: object) -> None:
    state = lists_state(1, NONE, 2, sliding)
    wrong = COUNTERPARTS["MCLists.tla"].properties["DirtyNotLost"](state, state)
    assert wrong is not None
    assert "u1" in wrong
