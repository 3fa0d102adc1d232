"""Every exception the machine raises on purpose. None carries a secret or a plaintext, and each changes nothing."""

from __future__ import annotations

from typing import ClassVar

from unwedged.machine.identifiers import Device, UserId
from unwedged.store import errors


class MachineError(Exception):
    """The base of all exceptions that the machine raises on purpose."""

    code: ClassVar[str] = "machine_error"
    """What a program compares. It stays as it is, also where the name of the class or the text changes."""


class InvalidArgument(MachineError, errors.InvalidArgument):
    """A value that was given is of a type, or has a content, that the machine can do nothing with."""

    code = "invalid_argument"


class MalformedExport(MachineError):
    """A text is no key export file, or a part of it is missing."""

    code = "malformed_export"


class UnsupportedExport(MachineError):
    """A key export file has a version that is not known."""

    code = "unsupported_export"


class RoundsOutOfBounds(MachineError):
    """A passphrase is to be hashed in no rounds at all, or in so many that it would take minutes."""

    code = "rounds_out_of_bounds"


class WrongExportPassphrase(MachineError):
    """The passphrase is not the one of the key export file, or the file was changed. Nobody can tell which."""

    code = "wrong_export_passphrase"


class MalformedExportedSessions(MachineError):
    """A key export file was decrypted, and what it holds is no list of sessions."""

    code = "malformed_exported_sessions"


class MalformedRecoveryKey(MachineError):
    """A text is no recovery key: it was mistyped, cut, or is something else."""

    code = "malformed_recovery_key"


class MalformedStorageKey(MachineError):
    """The description of a key of the secret storage is not as the specification has it."""

    code = "malformed_storage_key"


class UnsupportedStorageKey(MachineError):
    """A key of the secret storage is for an algorithm, or made from a passphrase in a way, that is not known."""

    code = "unsupported_storage_key"


class WrongStorageKey(MachineError):
    """The passphrase, or the recovery key, is not that of this key of the secret storage."""

    code = "wrong_storage_key"


class UncheckedStorageKey(MachineError):
    """The description of a key of the secret storage does not show which key it is: so nothing is stored for it."""

    code = "unchecked_storage_key"


class NotStoredForKey(MachineError):
    """A secret is not in the secret storage, or is not encrypted for this key of it."""

    code = "not_stored_for_key"


class MalformedStoredSecret(MachineError):
    """What the secret storage has under a name is not as the specification has it, or decrypts to no text."""

    code = "malformed_stored_secret"


class TamperedStoredSecret(MachineError):
    """A secret was changed in the secret storage, was stored under another name, or was encrypted by another key."""

    code = "tampered_stored_secret"


class MalformedAttachmentKey(MachineError):
    """What is needed for decrypting an attachment is missing, or is not as the specification has it."""

    code = "malformed_attachment_key"


class UnsupportedAttachment(MachineError):
    """An attachment is encrypted by a version or an algorithm that is not known."""

    code = "unsupported_attachment"


class TamperedAttachment(MachineError):
    """An encrypted attachment is not the one that its sender hashed: it was cut, damaged or replaced."""

    code = "tampered_attachment"


class AnotherDevice(MachineError):
    """The store belongs to another user or device than the one that was named."""

    code = "another_device"


class AnotherIdentity(MachineError):
    """The user has a cross-signing identity, and not all of its private keys are here.

    Verify this device, import the keys, or reset the identity.
    """

    code = "another_identity"


class WrongSigningKey(MachineError):
    """A private cross-signing key does not belong to the user's identity. None was kept."""

    code = "wrong_signing_key"


class NotCanonical(MachineError):
    """A JSON value has no canonical encoding, so that nobody can sign it."""

    code = "not_canonical"


class MalformedMessage(MachineError):
    """A message, a key or an event is not built as the Matrix specification demands."""

    code = "malformed"


class MalformedResponse(MachineError):
    """A homeserver's response is not built as the Matrix specification demands. Nothing of it was used."""

    code = "malformed_response"


class RepeatedMessage(MachineError):
    """An Olm message was decrypted before. Nothing has changed."""

    code = "repeated"


class MessageUnreadable(MachineError):
    """A message does not decrypt."""

    code = "unreadable"


class WrongRecipient(MachineError):
    """A decrypted Olm message is for another user or device, or does not say for whom."""

    code = "wrong_recipient"


class WrongSender(MachineError):
    """A message does not come from where it says, or does not say so."""

    code = "wrong_sender"


class UnsupportedAlgorithm(MachineError):
    """An event or a room is encrypted by an algorithm that the machine does not know."""

    code = "unsupported_algorithm"


class MissingRoomKey(MachineError):
    """The key of a room message has not arrived. A later sync may bring it."""

    code = "missing_room_key"


class WithheldRoomKey(MachineError):
    """The sender of a room message has said that it withholds the key. ``reason_code`` says why (``m.unverified``)."""

    code = "withheld_room_key"

    def __init__(self, message: str, reason_code: str = "") -> None:
        super().__init__(message)
        self.reason_code = reason_code


class UnknownIndex(MachineError):
    """A room message was sent before the first one that the key reads."""

    code = "unknown_index"


class ReplayedMessage(MachineError):
    """A room message was read before as another event."""

    code = "replayed"


class WrongRoom(MachineError):
    """A room message was encrypted for another room."""

    code = "wrong_room"


class RequestRefused(MachineError):
    """Somebody asks for a secret or a room key, and gets none: another user, or a device that asks for too much."""

    code = "request_refused"


class NotAsked(MachineError):
    """A device sends a secret or a room key that it was not asked for, or that device is not verified."""

    code = "not_asked"


class WrongSecret(MachineError):
    """A device sends a private key that is not that of the public key."""

    code = "wrong_secret"


class NotEncrypted(MachineError):
    """The room is not known to be encrypted."""

    code = "not_encrypted"


class EncryptionDowngrade(MachineError):
    """A room that is encrypted would stop being so, or change its algorithm."""

    code = "encryption_downgrade"


class RoomKeyNotShared(MachineError):
    """There is no room key that may be used now: call ``share_room_key`` first.

    A share is good until a device list, the settings, or the age of the key demand another.
    """

    code = "room_key_not_shared"


class UnverifiedRecipients(MachineError):
    """The room's strategy forbids to share its key with all of its members. Nothing was shared.

    Verify or block each of ``devices``, which are not verified though their user is; and verify each of ``users`` anew,
    whose identity was verified once and has changed, or accept it as it is.
    """

    code = "unverified_recipients"

    def __init__(self, message: str, devices: tuple[Device, ...] = (), users: tuple[UserId, ...] = ()) -> None:
        super().__init__(message)
        self.devices = devices
        self.users = users


class NoBackup(MachineError):
    """There is no backup that this could be done with: none is known, or another one than was asked for."""

    code = "no_backup"


class WrongBackupKey(MachineError):
    """A decryption key is not the one of the backup."""

    code = "wrong_backup_key"


class UnknownVerification(MachineError):
    """There is no such verification, or there is none any more."""

    code = "unknown_verification"


class WrongPhase(MachineError):
    """A verification has not come as far as this needs, or has come further, or is over."""

    code = "wrong_phase"


class UnknownDevice(MachineError):
    """The keys of a device, or of its owner, are not known: track its owner, and send what is to be sent."""

    code = "unknown_device"


class UnsupportedVerification(MachineError):
    """The two devices have no method of verification in common that this needs."""

    code = "unsupported_verification"


class TooManyVerifications(MachineError):
    """Others ask for so many verifications at once that this one was dropped."""

    code = "too_many_verifications"


class MalformedQrCode(MachineError):
    """What was scanned is no QR code of a verification."""

    code = "malformed_qr_code"


class WrongQrCode(MachineError):
    """The QR code is for another verification than the one that it was scanned for."""

    code = "wrong_qr_code"
