"""The repr of a structure has no secret and no plaintext, since a log or an exception may quote it."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import typing
from unittest.mock import MagicMock as Mock

import msgspec
import pytest

from unwedged import machine

CANARY = "canary"

PUBLIC: typing.Final = frozenset(
    {
        "AttachmentKey.iv",
        "AttachmentKey.sha256",
        "BackupMessage.ciphertext",
        "BackupMessage.ephemeral",
        "BackupMessage.mac",
        "BackupUpload.body",
        "BackupVersionCreate.body",
        "DecryptedEvent.type",
        "ExportedSession.algorithm",
        "ExportedSession.sender_claimed_keys",
        "Identity.master",
        "Identity.self_signing",
        "Identity.user_signing",
        "KeysUpload.body",
        "KnownDevice.keys",
        "OlmEvent.type",
        "OlmMessage.body",
        "OutboundSession.members",
        "Outgoing.event_type",
        "OutgoingToDevice.event_type",
        "OutgoingToDevice.messages",
        "OwnDevice.fallback",
        "OwnDevice.keys",
        "OwnDevice.reported",
        "Peer.digests",
        "Problem.code",
        "Problem.event_type",
        "Problem.sender",
        "RoomSettings.algorithm",
        "SignatureUpload.body",
        "SigningKeysUpload.body",
        "StorageKey.description",
        "StorageKey.key_id",
        "SyncPosition.connection",
        "SyncPosition.to_device_token",
        "SyncPosition.token",
        "ToDevice.event_type",
        "ToDevice.messages",
        "ToDeviceEvent.type",
        "ReportedKeys.unused_fallback_types",
        "UnpublishedSignature.name",
        "UnpublishedSignature.signed",
        "WantedSecret.name",
        "Withheld.code",
        "Withheld.reason",
        "_AuthData.public_key",
        "_Classic.device_one_time_keys_count",
        "_Classic.device_unused_fallback_key_types",
        "_Classic.next_batch",
        "_DefaultKey.key",
        "_Description.algorithm",
        "_Description.iv",
        "_Description.mac",
        "_DeviceRequest.action",
        "_Encrypted.algorithm",
        "_Encrypted.ciphertext",
        "_Encrypted.iv",
        "_Encrypted.mac",
        "_EncryptedFile.iv",
        "_EncryptedFile.v",
        "_Encryption.algorithm",
        "_Hashes.sha256",
        "_Keys.ed25519",
        "_Megolm.algorithm",
        "_Megolm.ciphertext",
        "_Ciphertext.body",
        "_OlmCiphertext.body",
        "_Passphrase.algorithm",
        "_Passphrase.salt",
        "_Secret.encrypted",
        "_SecretRequest.name",
        "_Sessions.sessions",
        "_Sliding.pos",
        "_SlidingE2ee.device_one_time_keys_count",
        "_SlidingE2ee.device_unused_fallback_key_types",
        "_Version.algorithm",
        "_Version.auth_data",
        "_WantedRoomKey.algorithm",
        "_Withheld.algorithm",
        "_Withheld.code",
        "_Withheld.reason",
    }
)
"""The fields that a repr may show. A name with its own type, such as ``UserId``, is public. Any other text, bytes or
JSON must be listed here."""


def structures() -> list[type]:
    """Return every structure of the machine that has fields."""
    names = [each.name for each in pkgutil.iter_modules(machine.__path__)]
    modules = [importlib.import_module(f"{machine.__name__}.{name}") for name in names]
    return [
        each
        for module in modules
        for each in vars(module).values()
        if isinstance(each, type)
        and each.__module__ == module.__name__
        and (dataclasses.is_dataclass(each) or issubclass(each, msgspec.Struct))
    ]


def fields(structure: type) -> dict[str, object]:
    """Return the fields of a structure, and the types of their values."""
    if issubclass(structure, msgspec.Struct):
        return {field.name: field.type for field in msgspec.structs.fields(structure)}
    assert dataclasses.is_dataclass(structure)
    hints = typing.get_type_hints(structure)
    return {field.name: hints[field.name] for field in dataclasses.fields(structure)}


def may_hold_text(kind: object) -> bool:
    """Return whether a value of this type may be, or contain, text or bytes other than a public name."""
    return kind in (str, bytes, object) or any(map(may_hold_text, typing.get_args(kind)))


def made_of(structure: type, values: dict[str, object]) -> object:
    """Return a structure with these values, even if they have wrong types."""
    if issubclass(structure, msgspec.Struct):
        return structure(**values)
    made: object = object.__new__(structure)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


@pytest.mark.parametrize("structure", structures(), ids=lambda structure: structure.__qualname__)
def test_a_structure_shows_no_text_that_is_not_known_to_be_public(structure: type) -> None:
    kept = fields(structure)
    private = {
        name for name, kind in kept.items() if may_hold_text(kind) and f"{structure.__name__}.{name}" not in PUBLIC
    }
    made = made_of(structure, {name: f"{CANARY} {name}" if name in private else Mock() for name in kept})
    shown = [name for name in private if f"{CANARY} {name}" in repr(made)]
    assert not shown, "these are Unshown, or it is said above that they are public"


def test_what_may_be_shown_is_a_field() -> None:
    there = {f"{structure.__name__}.{name}" for structure in structures() for name in fields(structure)}
    assert there >= PUBLIC
