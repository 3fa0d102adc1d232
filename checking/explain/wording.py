"""What the lines of the machine say, and how many there are of something, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from checking.explain.lines import (
    Abandon,
    Answer,
    Backup,
    Batch,
    Claim,
    DecryptMegolm,
    DecryptOlm,
    EncryptMegolm,
    EncryptOlm,
    Give,
    MachineLine,
    MakeSession,
    Offer,
    OpenMachine,
    Receive,
    Repair,
    RequestMade,
    RoomKey,
    Send,
    Share,
    ToldWithheld,
    Verification,
    Withhold,
)


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number and what is counted: ``1 line``, ``2 lines``."""
    return f"{number:,} {one if number == 1 else several or f'{one}s'}"


def in_words(line: MachineLine) -> str:
    """Say in words what a process has done. The subject is left out."""
    match line:
        case EncryptMegolm(index=index):
            return f"encrypts message {index}"
        case EncryptOlm(ratchet=ratchet, index=index, request=request):
            sent = "" if request is None else f", in the request {request}"
            return f"encrypts the Olm message {ratchet}:{index}{sent}"
        case DecryptMegolm(index=index, outcome="ok", event=name):
            return f"decrypts message {index}, as the event {name}"
        case DecryptMegolm(index=index, outcome=outcome, event=name):
            return f"can't decrypt message {index}, as the event {name}: {outcome}"
        case DecryptOlm(ratchet=ratchet, index=index, outcome="ok"):
            return f"decrypts the Olm message {ratchet}:{index}"
        case DecryptOlm(ratchet=ratchet, index=index, outcome=outcome):
            return f"can't decrypt the Olm message {ratchet}:{index}: {outcome}"
        case RoomKey(source=source, first_index=first, kept=kept):
            how = {"own": "makes the key", "room_key": "gets the key"}.get(source or "", f"gets the key ({source})")
            return f"{how}, from message {first} on" + ("" if kept else ", which is no better than what it has")
        case Share(devices=devices, indices=indices, request=request):
            each = sorted(set(indices))
            since = f", from message {' or '.join(map(str, each))} on" if each else ""
            return f"shares the key with {', '.join(devices)}{since}, in the request {request}"
        case Withhold(devices=devices, codes=codes):
            return f"withholds the key from {', '.join(devices)}: {', '.join(sorted(set(codes))) or 'no reason'}"
        case ToldWithheld(code=code):
            return f"is told that the key is withheld: {code}"
        case Answer(request=request, type=kind):
            return f"has the homeserver's answer to the request {request} ({kind})"
        case Receive(type=kind, outcome="ok"):
            return f"uses an event for this device, {kind}"
        case Receive(type=kind, outcome=outcome):
            return f"can't use an event for this device, {kind}: {outcome}"
        case Batch(events=events):
            return f"has a sync response with {counted(events, 'event')} for this device"
        case Repair(record=record):
            return f"can't read {record} any more, and counts it as lost"
        case _:
            return _request_in_words(line)


def _request_in_words(line: MachineLine) -> str:
    match line:
        case OpenMachine(device=device):
            return f"opens the machine of the device {device}"
        case Offer(request=request, one_time_keys=number):
            return f"offers {counted(number, 'one-time key')}, in the request {request}"
        case Abandon(request=request):
            return f"abandons the offer of the request {request}"
        case Send(request=request, type=kind, devices=devices):
            return f"puts {kind} for {counted(len(devices), 'device')} into the outbox, in the request {request}"
        case RequestMade(request=request, type=kind):
            return f"hands out the request {request} ({kind})"
        case Claim(request=request):
            return f"hands out the claim {request}"
        case MakeSession(peer=peer):
            return f"makes an Olm session with {peer}"
        case Verification(record=record, phase=phase):
            return f"brings {record} to the phase {phase}"
        case Backup(version="none"):
            return "notes that there is no backup, or none yet"
        case Backup(version=version):
            return f"notes the version {version} of the backup"
        case Give(type=kind, device=device):
            return f"answers the device {device}, which has asked for a key or a secret ({kind})"
        case _:
            raise AssertionError(line)


def enumerated(names: Sequence[str]) -> str:
    """Return names as people list them: ``a, b and c``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
