"""Why one message can't be decrypted: its key is followed through the traces of all processes and stores (pure).

Each verdict follows from lines that are there, or from such as are missing although their neighbours are there. What
can't be concluded, because traces are missing, is said with the verdict (T5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from checking.errors import CheckError
from checking.explain.history import Event, History, StaleWrite
from checking.explain.lines import (
    Answer,
    Commit,
    DecryptMegolm,
    DecryptOlm,
    EncryptMegolm,
    EncryptOlm,
    MachineLine,
    Receive,
    RoomKey,
    Share,
    ToldWithheld,
    Withhold,
)
from checking.explain.reasons import Certainty
from checking.explain.wording import counted, in_words

CERTAIN, LIKELY, POSSIBLE = Certainty


class Verdict(Enum):
    """What became of a message's key."""

    READ = "the message was read"
    LATE = "the key came after the message"
    NEVER_SHARED = "never shared"
    WITHHELD = "withheld"
    WEDGED = "shared over a wedged session"
    FORKED = "ratchet forked by a stale write"
    SPENT_TWICE = "key spent twice"
    BATCH_LOST = "batch lost"
    LOST_HERE = "arrived, and lost here"
    NOT_OURS = "not ours"
    UNCLEAR = "unclear"


MEANINGS: Final = {
    Verdict.READ: "nothing is wrong with this message here",
    Verdict.LATE: "the message can be decrypted now: try again",
    Verdict.NEVER_SHARED: "the sender has not given the key of this message to the device that lacks it",
    Verdict.WITHHELD: "the sender refuses this device the key, on purpose",
    Verdict.WEDGED: "the key was sent over an Olm session whose two ends no longer agree, so it could not be read",
    Verdict.FORKED: "two processes have used one key, since one of them had an outdated copy of the session",
    Verdict.SPENT_TWICE: "two messages have one key; perhaps an older store was put back, or a session kept elsewhere",
    Verdict.BATCH_LOST: "messages to this device came with a sync, or were skipped by one, and were not processed",
    Verdict.LOST_HERE: "the key has come to this device, and its store or its program has lost it",
    Verdict.NOT_OURS: "these stores have done what they must: look at the other end, or at the homeserver",
    Verdict.UNCLEAR: "these traces do not decide it",
}
"""What each verdict means, for somebody who has a message that can't be decrypted."""

SOUND: Final = frozenset({Verdict.READ, Verdict.LATE})


class UnknownMessage(CheckError):
    """No line is about the message."""


@dataclass(frozen=True, slots=True)
class Name:
    """A message: the pseudonyms of its session (Megolm) or of its ratchet key (Olm), one for each store; its index."""

    pseudonyms: frozenset[str]
    index: int
    olm: bool = False

    def __str__(self) -> str:
        return (
            f"message {self.index} of the {'ratchet' if self.olm else 'session'} {', '.join(sorted(self.pseudonyms))}"
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on a message, what it follows from, what is not known, and what the traces report of its key."""

    message: Name
    verdict: Verdict
    certainty: Certainty
    because: tuple[str, ...]
    unknown: tuple[str, ...]
    evidence: tuple[tuple[History, Event], ...]
    stores: tuple[History, ...]

    @property
    def summary(self) -> str:
        """Return the verdict in one line."""
        return f"{self.message}: {self.certainty.value} {self.verdict.value.upper()}"

    def details(self) -> Iterator[str]:
        """Say what it means, and what it follows from."""
        yield f"  it means: {MEANINGS[self.verdict]}"
        yield from (f"  because {reason}" for reason in self.because)
        yield from (f"  not known: {what}" for what in self.unknown)
        yield "  what the traces report of its key:"
        rows = [(f"version {event.at.version}", event.process, event) for _, event in self.evidence]
        widest = max((len(version) for version, _, _ in rows), default=0)
        for version, process, event in rows:
            yield f"    {version:{widest}}  {process}  {described(event)} ({event.location})"
        named = {event.process for _, event in self.evidence}
        for store in self.stores:
            for process, instance in store.processes.items():
                if process not in named:
                    continue
                files = sorted({found.location.file for found in store.logs.instances[instance]})
                yield f"  {process} is the instance {instance} of the store {store.logs.store}, in {', '.join(files)}"


def described(event: Event) -> str:
    """Say in words what a line says."""
    match event.line:
        case Commit(version=version, snapshot=snapshot):
            return f"commits version {version} from version {snapshot}"
        case line:
            assert isinstance(line, MachineLine)
            return in_words(line)


@dataclass(frozen=True, slots=True)
class _Delivery:
    """A room key that was given to a device."""

    share: Event
    index: int
    olm: Event | None
    """The Olm message that carries it."""
    answer: Event | None
    """What says that the homeserver took it."""


class _Case:
    """The evidence on one message: ``sender`` is the store that made its key, ``reader`` the one that lacks it."""

    def __init__(self, stores: Sequence[History], name: Name, reader_devices: frozenset[str] | None) -> None:
        self.name = name
        self.stores = tuple(stores)
        self.evidence: list[tuple[History, Event]] = []
        self.because: list[str] = []
        self.unknown: list[str] = list(dict.fromkeys(remark for store in stores for remark in store.logs.remarks))
        self.reader_devices = reader_devices
        for store in stores:
            if unreported := store.unreported_versions:
                count = sum(last - first + 1 for first, last in unreported)
                first, last = unreported[0][0], unreported[-1][1]
                versions = f"version {first}" if first == last else f"versions {first} to {last}"
                self.unknown.append(
                    f"what {counted(count, 'commit')} of the store {store.logs.store} did, of {versions}, by processes "
                    "whose traces are missing"
                )
        self._gaps = bool(self.unknown)

    def add(self, store: History, *events: Event | None) -> None:
        """Add events to the evidence."""
        self.evidence += [(store, event) for event in events if event is not None]

    def found(self, verdict: Verdict, certainty: Certainty, *because: str) -> Finding:
        """Return the verdict, with the evidence and what is not known."""
        order = {store.logs.store: number for number, store in enumerate(self.stores)}
        evidence = {(store.logs.store, event.location): (store, event) for store, event in self.evidence}
        in_order = sorted(evidence.values(), key=lambda pair: (order[pair[0].logs.store], pair[1].at))
        unknown = tuple(dict.fromkeys(self.unknown))
        return Finding(self.name, verdict, certainty, (*because, *self.because), unknown, tuple(in_order), self.stores)

    def lacks(self, end: str, what: str) -> None:
        """Note what is not known because no line of the sender, or of the reader, names the message."""
        silent = [store.logs.store for store in self.stores if not _knows(self, store)]
        option = f"{'--olm RATCHET_KEY' if self.name.olm else '--message SESSION'}:{self.name.index}"
        why = (
            f"no line of the store {' or '.join(silent)} names the message so; if that is the store of the {end}, "
            f"add {option}, as its own traces call it"
            if silent
            else f"the traces of the {end} are missing"
        )
        self.unknown.append(f"{why}: {what}")

    def unless_gaps(self, certainty: Certainty) -> Certainty:
        """Return how sure a verdict is that would be another one if a missing line of these stores said so."""
        return _at_most_likely(certainty) if self._gaps else certainty

    def unless_missing(self, certainty: Certainty) -> Certainty:
        """Return how sure a verdict is that follows from what no line reports."""
        return _at_most_likely(certainty) if self.unknown else certainty


def _at_most_likely(certainty: Certainty) -> Certainty:
    return LIKELY if certainty is CERTAIN else certainty


def named_by_event(stores: Iterable[History], events: frozenset[str]) -> Name:
    """Return the message that was read, or could not be, as one of the events. Raises ``UnknownMessage``."""
    for store in stores:
        for _, line in store.of(DecryptMegolm):
            if line.event in events and line.session is not None and line.index is not None:
                return Name(frozenset({line.session}), line.index)
    raise UnknownMessage(f"no line reports an attempt to decrypt the event {' or '.join(sorted(events))}")


def examine(stores: Sequence[History], name: Name, reader_devices: frozenset[str] | None = None) -> Finding:
    """Return the verdict on a message. ``reader_devices`` are what traces may call the reader."""
    case = _Case(stores, name, reader_devices)
    finding = _examine_olm(case) if name.olm else _examine_megolm(case)
    if not finding.evidence:
        raise UnknownMessage(
            f"no line is about {name}: is that the name which these traces have for it, and did their processes open "
            "the machine, not only the store?"
        )
    return finding


# Megolm


def _examine_megolm(case: _Case) -> Finding:
    sender = next((store for store in case.stores if any(_keys(case, store, own=True))), None) or next(
        (store for store in case.stores if any(_encryptions(case, store))), None
    )
    readings = {store.logs.store: _readings(case, store) for store in case.stores}
    reader = next((s for s in case.stores if any(_failed(event) for event in readings[s.logs.store])), None)
    reader = reader or next((s for s in case.stores if s is not sender and _knows(case, s)), None)
    reader = reader or next((s for s in case.stores if readings[s.logs.store]), None)
    for store in case.stores:
        case.add(store, *_keys(case, store), *_encryptions(case, store), *readings[store.logs.store])
        case.add(store, *(event for event, line in store.of(ToldWithheld) if line.session in case.name.pseudonyms))
    if sender is None:
        case.lacks(
            "sender",
            "whether it shared the key with this device, over which session, and whether it used the key twice",
        )
    else:
        case.add(sender, *_shares(case, sender))
        twice = _spent_twice(case, sender, list(_encryptions(case, sender)))
        if twice is not None:
            return twice
    if reader is None:
        case.lacks("reader", "what arrived there, and whether it could be used")
        return _as_the_sender_has_it(case, sender, None)
    return _as_the_reader_has_it(case, sender, reader, readings[reader.logs.store])


def _as_the_reader_has_it(case: _Case, sender: History | None, reader: History, readings: list[Event]) -> Finding:
    """Judge by how the message could not be read."""
    failures = [event for event in readings if _failed(event)]
    good = [event for event in readings if not _failed(event)]
    replayed = [event for event in failures if _outcome(event) == "replayed"]
    if replayed:
        said = f"{reader.letter} has read another event with this index before ({_first_location(good, reader)})"
        if sender is not None:
            return case.found(
                Verdict.NOT_OURS,
                case.unless_missing(CERTAIN),
                said,
                "the sender has encrypted one message with this index: somebody else has sent it again",
            )
        return case.found(Verdict.SPENT_TWICE, POSSIBLE, said, "the sender used the key twice, or it was sent again")
    if good and (not failures or good[-1].at > failures[-1].at):
        if failures:
            return case.found(Verdict.LATE, CERTAIN, f"it was read in the end ({good[-1].location})")
        return case.found(Verdict.READ, CERTAIN, f"{good[-1].process} has decrypted it ({good[-1].location})")
    attempt = failures[-1] if failures else None
    outcome = "missing_room_key" if attempt is None else _outcome(attempt)
    keys = [event for event in _keys(case, reader) if _kept(event)]
    usable = [event for event in keys if _first(event) <= case.name.index]
    match outcome:
        case "unknown_index" | "withheld_room_key" | "missing_room_key" if usable:
            return _had_the_key(case, reader, usable, attempt)
        case "unknown_index":
            first = min((_first(event) for event in keys), default=None)
            said = f"the key was given from {'a later message' if first is None else f'message {first}'} on"
            return case.found(Verdict.NEVER_SHARED, case.unless_gaps(CERTAIN), said)
        case "withheld_room_key":
            return _withheld(case, reader)
        case "missing_room_key":
            if any(line.session in case.name.pseudonyms for _, line in reader.of(ToldWithheld)):
                return _withheld(case, reader)
            return _as_the_sender_has_it(case, sender, (reader, attempt))
        case "unreadable":
            return case.found(
                Verdict.UNCLEAR, POSSIBLE, "the key is here and does not fit: the message or the key is another's"
            )
        case _:
            return case.found(
                Verdict.NOT_OURS, LIKELY, f"the key is here, and the message is not what it should be: {outcome}"
            )


def _withheld(case: _Case, reader: History) -> Finding:
    codes = [line.code for _, line in reader.of(ToldWithheld) if line.session in case.name.pseudonyms]
    return case.found(Verdict.WITHHELD, CERTAIN, f"the sender has said so: {codes[-1] if codes else 'of old'}")


def _had_the_key(case: _Case, reader: History, usable: list[Event], attempt: Event | None) -> Finding:
    """Judge a message whose key has come: before the attempt, or after it."""
    before = [event for event in usable if attempt is not None and event.at < attempt.at]
    if not before:
        return case.found(
            Verdict.LATE, CERTAIN, f"its key came ({usable[0].location}) after the attempt: it can be decrypted now"
        )
    records = frozenset().union(*(reader.records_of(event) for event in before))
    if (repaired := reader.repaired(records)) is not None:
        case.add(reader, repaired)
        said = f"{repaired.process} could not read the record any more, and counts it as lost ({repaired.location})"
        return case.found(Verdict.LOST_HERE, CERTAIN, said)
    return case.found(
        Verdict.LOST_HERE,
        case.unless_gaps(LIKELY),
        f"the key was stored ({before[0].location}), and was not there any more",
    )


def _as_the_sender_has_it(case: _Case, sender: History | None, lacking: tuple[History, Event | None] | None) -> Finding:
    """Judge by what the sender has done with the key, and then by what the reader has got."""
    if sender is not None:
        verdict = _given(case, sender, lacking)
        if verdict is not None:
            return verdict
    if lacking is None:
        said = "the sender has shared it, and the homeserver has taken it: so far nothing is wrong"
        return case.found(Verdict.UNCLEAR, POSSIBLE, said)
    reader, attempt = lacking
    user = attempt.line.sender if attempt is not None and isinstance(attempt.line, DecryptMegolm) else None
    lost = list(reader.lost_batches(None if attempt is None else attempt.at))
    wedged = list(_unreadable(reader, user, attempt))
    unusable = list(_unusable(reader, user, attempt))
    if lost:
        for _, event in lost:
            case.add(reader, event)
        if wedged:
            case.because.append(f"an Olm message of the sender could not be read either ({wedged[0].location})")
        return case.found(Verdict.BATCH_LOST, LIKELY, *(f"of a batch ({e.location}), {what}" for what, e in lost))
    if wedged:
        return _wedged_at_the_reader(case, reader, wedged)
    if unusable:
        case.add(reader, *unusable)
        aside = [event for event in unusable if _receive(event).outcome == "put_aside"]
        if aside:
            return case.found(
                Verdict.LOST_HERE,
                LIKELY,
                f"an event of the sender met a fault here and was put aside ({aside[0].location})",
            )
        return case.found(
            Verdict.NOT_OURS, LIKELY, f"what the sender has sent could not be used: {described(unusable[0])}"
        )
    said = f"the key never arrived at {reader.letter}: no batch is missing, and all that came could be used"
    if sender is None:
        return case.found(Verdict.NOT_OURS, case.unless_missing(LIKELY), said)
    taken = "the sender has shared it, and the homeserver has taken it"
    return case.found(Verdict.NOT_OURS, case.unless_missing(CERTAIN), taken, said)


def _given(case: _Case, sender: History, lacking: tuple[History, Event | None] | None) -> Finding | None:
    """Judge by what the sender's traces report, if that is enough."""
    deliveries, withheld, device = _deliveries(case, sender)
    if device is None and len({*_all_devices(case, sender)}) > 1:
        case.unknown.append(
            "which of the devices is the reader's: name it as it is named in the sender's traces, --reader"
        )
        return (
            None
            if deliveries
            else case.found(Verdict.NEVER_SHARED, LIKELY, "no line reports a device that was given it")
        )
    early = [delivery for delivery in deliveries if delivery.index <= case.name.index]
    if not early and withheld:
        return case.found(Verdict.WITHHELD, CERTAIN, f"the sender does not give it to {device}: {', '.join(withheld)}")
    if not early and deliveries:
        said = f"{device} was given the key from message {deliveries[0].index} on"
        return case.found(Verdict.NEVER_SHARED, case.unless_missing(CERTAIN), said)
    if not early:
        whom = "anybody" if device is None else device
        return case.found(
            Verdict.NEVER_SHARED, case.unless_missing(CERTAIN), f"no line reports that the key was given to {whom}"
        )
    for delivery in early:
        case.add(sender, delivery.share, delivery.olm, delivery.answer)
    taken = [delivery for delivery in early if delivery.answer is not None]
    if not taken:
        return case.found(
            Verdict.NEVER_SHARED,
            case.unless_missing(CERTAIN),
            f"the request that carries the key was made ({early[-1].share.location}), and no answer to it has come",
        )
    forks = [_uses(sender, delivery.olm) for delivery in taken if delivery.olm is not None]
    if forks and all(len(uses) > 1 for uses in forks):
        case.add(sender, *forks[0])
        write = _stale_write(sender, forks[0])
        case.add(sender, None if write is None else write.commit)
        if lacking is not None:
            _unreadable_at(case, *lacking, taken)
        return case.found(
            Verdict.WEDGED,
            CERTAIN,
            "the Olm message that carries the key has the same ratchet key and index as another one "
            f"({forks[0][0].location})",
            *([] if write is None else [f"that is a fork: {_said(write)}"]),
        )
    if lacking is not None and (wedged := _unreadable_at(case, *lacking, taken)):
        return _wedged_at_the_reader(case, lacking[0], wedged)
    return None


def _unreadable_at(case: _Case, reader: History, attempt: Event | None, taken: list[_Delivery]) -> list[Event]:
    """Return the sender's Olm messages that the reader could not decrypt and that have the index of one in question."""
    user = attempt.line.sender if attempt is not None and isinstance(attempt.line, DecryptMegolm) else None
    indices = {_olm(delivery.olm).index for delivery in taken if delivery.olm is not None}
    wedged = [event for event in _unreadable(reader, user, attempt) if _decrypt_olm(event).index in indices]
    case.add(reader, *wedged)
    return wedged


def _wedged_at_the_reader(case: _Case, reader: History, wedged: list[Event]) -> Finding:
    case.add(reader, *wedged)
    peer = _decrypt_olm(wedged[0]).peer
    records = _records_with(reader, peer)
    write = next(
        (write for write in reader.stale_writes if write.record in records and write.commit.at < wedged[0].at), None
    )
    said = f"an Olm message of the sender could not be read ({wedged[0].location})"
    case.unknown.append(
        "whether that message carried this key: an Olm message that can't be read does not say what it carries"
    )
    if write is not None:
        case.add(reader, write.commit)
        return case.found(Verdict.WEDGED, LIKELY, said, f"the reader's own session was forked: {_said(write)}")
    return case.found(Verdict.WEDGED, LIKELY, said)


# Olm


def _examine_olm(case: _Case) -> Finding:
    pseudonyms, index = case.name.pseudonyms, case.name.index
    used = {
        store.logs.store: [e for e, line in store.of(EncryptOlm) if line.ratchet in pseudonyms and line.index == index]
        for store in case.stores
    }
    came = {
        store.logs.store: [e for e, line in store.of(DecryptOlm) if line.ratchet in pseudonyms and line.index == index]
        for store in case.stores
    }
    sender = next((store for store in case.stores if used[store.logs.store]), None)
    reader = next((store for store in case.stores if came[store.logs.store]), None)
    if sender is None:
        case.lacks("sender", "whether it used the key twice")
    else:
        case.add(sender, *used[sender.logs.store])
        twice = _spent_twice(case, sender, used[sender.logs.store])
        if twice is not None:
            return twice
    if reader is None:
        case.unknown.append("no line of a reader is about it: are the traces of the device that it was for here?")
        request = None if sender is None else _olm(used[sender.logs.store][0]).request
        answer = None if sender is None else _answer(sender, request)
        if sender is not None:
            case.add(sender, answer)
        if sender is not None and answer is None:
            return case.found(Verdict.NEVER_SHARED, case.unless_missing(LIKELY), f"no answer to {request} has come")
        return case.found(Verdict.UNCLEAR, POSSIBLE, "the homeserver has taken it: so far nothing is wrong")
    case.add(reader, *came[reader.logs.store])
    good = [event for event in came[reader.logs.store] if _decrypt_olm(event).outcome == "ok"]
    bad = [event for event in came[reader.logs.store] if _decrypt_olm(event).outcome not in {"ok", "repeated"}]
    if good and bad:
        said = f"two messages came with this key: {good[0].location} and {bad[0].location}"
        return case.found(Verdict.SPENT_TWICE, LIKELY, said)
    if good:
        return case.found(Verdict.READ, CERTAIN, f"{good[-1].process} has decrypted it ({good[-1].location})")
    if not bad:
        return case.found(Verdict.READ, LIKELY, "it came again, after it was read before these traces")
    records = _records_with(reader, _decrypt_olm(bad[0]).peer)
    write = next((w for w in reader.stale_writes if w.record in records and w.commit.at < bad[0].at), None)
    if write is not None:
        case.add(reader, write.commit)
        return case.found(Verdict.FORKED, LIKELY, f"the reader's own session was forked: {_said(write)}")
    return case.found(Verdict.WEDGED, LIKELY, "the reader's session does not fit, and no stale write of its own shows")


# What both have


def _spent_twice(case: _Case, sender: History, uses: list[Event]) -> Finding | None:
    """Judge a key that its sender used more than once."""
    if len(uses) < 2:
        return None
    said = f"{uses[0].process} and {uses[1].process} have encrypted with it ({uses[0].location}, {uses[1].location})"
    write = _stale_write(sender, uses)
    if write is not None:
        case.add(sender, write.commit)
        return case.found(Verdict.FORKED, CERTAIN, said, _said(write))
    if repeated := sender.repeated_versions:
        case.because.append(f"version {repeated[0]} was made twice: an older copy of the store was put back")
    elif not any(isinstance(event.line, Commit) and event.line.based_on for event in sender.commits):
        case.unknown.append("based_on and made are missing: whether a stale write forked the ratchet")
    return case.found(Verdict.SPENT_TWICE, case.unless_gaps(CERTAIN), said)


def _stale_write(sender: History, uses: list[Event]) -> StaleWrite | None:
    """Return what forked a ratchet that was used twice with one index: a stale write of what both uses have written."""
    both = sender.records_of(uses[0]) & sender.records_of(uses[1])
    if isinstance(uses[0].line, EncryptOlm):
        both = both & _records_with(sender, uses[0].line.peer) or both
    return sender.stale_between(both, uses[0], uses[1])


def _said(write: StaleWrite) -> str:
    over = ", ".join(
        f"version {event.at.version} of {event.process} ({event.location})" for event in write.overwritten[:_FEW]
    )
    more = f" and {len(write.overwritten) - _FEW} more" if len(write.overwritten) > _FEW else ""
    return (
        f"{write.commit.process} has computed {write.record} from an older value ({write.commit.location}), and has "
        f"overwritten {over}{more}"
    )


_FEW: Final = 2


def _keys(case: _Case, store: History, *, own: bool = False) -> Iterator[Event]:
    for event, line in store.of(RoomKey):
        if line.session in case.name.pseudonyms and (not own or line.source == "own"):
            yield event


def _encryptions(case: _Case, store: History) -> Iterator[Event]:
    for event, line in store.of(EncryptMegolm):
        if line.session in case.name.pseudonyms and line.index == case.name.index:
            yield event


def _readings(case: _Case, store: History) -> list[Event]:
    return [
        event
        for event, line in store.of(DecryptMegolm)
        if line.session in case.name.pseudonyms and line.index == case.name.index
    ]


def _shares(case: _Case, store: History) -> Iterator[Event]:
    for event in store.events:
        if isinstance(event.line, Share | Withhold) and event.line.session in case.name.pseudonyms:
            yield event


def _knows(case: _Case, store: History) -> bool:
    """Say whether a store's traces name the session, or the ratchet key, at all."""
    what = "ratchet" if case.name.olm else "session"
    return any(getattr(event.line, what, None) in case.name.pseudonyms for event in store.events)


def _all_devices(case: _Case, sender: History) -> Iterable[str]:
    for event in _shares(case, sender):
        assert isinstance(event.line, Share | Withhold)
        yield from event.line.devices


def _deliveries(case: _Case, sender: History) -> tuple[list[_Delivery], list[str], str | None]:
    """Return how the key was given to the reader, the codes by which it was withheld, and who the reader is."""
    devices = {*_all_devices(case, sender)}
    device = next(iter(devices)) if len(devices) == 1 else None
    if case.reader_devices is not None:
        device = next(iter(devices & case.reader_devices), min(case.reader_devices))
    deliveries: list[_Delivery] = []
    codes: list[str] = []
    for event in _shares(case, sender):
        line = event.line
        if isinstance(line, Withhold):
            codes += [code for each, code in zip(line.devices, line.codes, strict=False) if device in {each, None}]
        elif isinstance(line, Share):
            for number, each in enumerate(line.devices):
                if device in {each, None}:
                    index = line.indices[number] if number < len(line.indices) else 0
                    olm = _carrier(sender, line.request, each)
                    deliveries.append(_Delivery(event, index, olm, _answer(sender, line.request)))
    return deliveries, codes, device


def _carrier(sender: History, request: str | None, device: str) -> Event | None:
    return next(
        (
            e
            for e, line in sender.of(EncryptOlm)
            if request is not None and line.request == request and line.device == device
        ),
        None,
    )


def _answer(sender: History, request: str | None) -> Event | None:
    return next((e for e, line in sender.of(Answer) if request is not None and line.request == request), None)


def _uses(sender: History, olm: Event) -> list[Event]:
    """Return all messages with the ratchet key and the index of one."""
    used = _olm(olm).ratchet, _olm(olm).index
    return [event for event, line in sender.of(EncryptOlm) if (line.ratchet, line.index) == used]


def _unreadable(reader: History, user: str | None, attempt: Event | None) -> Iterator[Event]:
    """Return the Olm messages of a user that could not be decrypted before an attempt."""
    senders = {(event.at.instance, event.at.line - 1): line.sender for event, line in reader.of(Receive)}
    for event, line in reader.of(DecryptOlm):
        # The line after it says which user the event is from.
        by = senders.get((event.at.instance, event.at.line))
        if line.outcome not in {"ok", "repeated"} and user in {None, by} and (attempt is None or event.at < attempt.at):
            yield event


def _unusable(reader: History, user: str | None, attempt: Event | None) -> Iterator[Event]:
    """Return the events of a user that were decrypted, if they had to be, and could not be used."""
    for event, line in reader.of(Receive):
        early = attempt is None or event.at < attempt.at
        if line.outcome not in {"ok", "repeated", "unreadable"} and user in {None, line.sender} and early:
            yield event


def _records_with(store: History, peer: str) -> frozenset[str]:
    """Return the records that were written wherever an Olm message of or to a peer was."""
    written = [
        records
        for event in store.events
        if isinstance(event.line, DecryptOlm | EncryptOlm) and event.line.peer == peer and _went_well(event)
        if (records := store.records_of(event))
    ]
    return frozenset.intersection(*written) if written else frozenset()


def _went_well(event: Event) -> bool:
    return not isinstance(event.line, DecryptOlm) or event.line.outcome == "ok"


def _failed(event: Event) -> bool:
    return _outcome(event) != "ok"


def _outcome(event: Event) -> str:
    assert isinstance(event.line, DecryptMegolm)
    return event.line.outcome


def _first_location(good: list[Event], reader: History) -> str:
    return str(good[0].location) if good else f"before the traces of {reader.letter}"


def _kept(event: Event) -> bool:
    assert isinstance(event.line, RoomKey)
    return event.line.kept


def _first(event: Event) -> int:
    assert isinstance(event.line, RoomKey)
    return event.line.first_index


def _olm(event: Event) -> EncryptOlm:
    assert isinstance(event.line, EncryptOlm)
    return event.line


def _decrypt_olm(event: Event) -> DecryptOlm:
    assert isinstance(event.line, DecryptOlm)
    return event.line


def _receive(event: Event) -> Receive:
    assert isinstance(event.line, Receive)
    return event.line
