"""Every exception that the machine raises on purpose. None holds a secret or a plaintext.

A call that raises one of them has changed nothing.
"""

from __future__ import annotations

from typing import ClassVar

from unwedged.machine.identifiers import Device, UserId
from unwedged.store import errors


class MachineError(Exception):
    """The base of all exceptions that the machine raises on purpose."""

    code: ClassVar[str] = "machine_error"
    """For programs to compare. It stays the same even if the name of the class or the message changes."""


class InvalidArgument(MachineError, errors.InvalidArgument):
    """An argument has a type or a value that the machine does not accept."""

    code = "invalid_argument"


class MalformedExport(MachineError):
    """A text is not a key export file, or a part of the file is missing."""

    code = "malformed_export"


class UnsupportedExport(MachineError):
    """A key export file has an unknown version."""

    code = "unsupported_export"


class RoundsOutOfBounds(MachineError):
    """A file asks for zero rounds of PBKDF2, or for so many that they would take minutes."""

    code = "rounds_out_of_bounds"


class WrongExportPassphrase(MachineError):
    """The passphrase of a key export file is wrong, or the file was changed. It is impossible to say which."""

    code = "wrong_export_passphrase"


class MalformedExportedSessions(MachineError):
    """A key export file was decrypted, but its content is not a list of sessions."""

    code = "malformed_exported_sessions"


class MalformedRecoveryKey(MachineError):
    """A text is not a recovery key: it was mistyped or cut, or is something else."""

    code = "malformed_recovery_key"


class MalformedStorageKey(MachineError):
    """The description of a key of the secret storage is malformed."""

    code = "malformed_storage_key"


class UnsupportedStorageKey(MachineError):
    """A key of the secret storage uses an unknown algorithm, or an unknown derivation from a passphrase."""

    code = "unsupported_storage_key"


class WrongStorageKey(MachineError):
    """The passphrase or the recovery key does not belong to this key of the secret storage."""

    code = "wrong_storage_key"


class UncheckedStorageKey(MachineError):
    """The description of a key of the secret storage has no check for the key. So nothing is encrypted for it."""

    code = "unchecked_storage_key"


class NotStoredForKey(MachineError):
    """A secret is not in the secret storage, or is not encrypted for this key."""

    code = "not_stored_for_key"


class MalformedStoredSecret(MachineError):
    """An entry of the secret storage is malformed, or is not text."""

    code = "malformed_stored_secret"


class TamperedStoredSecret(MachineError):
    """A secret in the secret storage was changed, was moved from another name, or was encrypted by another key."""

    code = "tampered_stored_secret"


class MalformedAttachmentKey(MachineError):
    """The description of an encrypted attachment lacks a part or is malformed."""

    code = "malformed_attachment_key"


class UnsupportedAttachment(MachineError):
    """An attachment is encrypted by an unknown version or algorithm."""

    code = "unsupported_attachment"


class TamperedAttachment(MachineError):
    """An encrypted attachment does not have the hash that its sender gave: it was cut, damaged or replaced."""

    code = "tampered_attachment"


class AnotherDevice(MachineError):
    """The store belongs to another user or device than the one that was named."""

    code = "another_device"


class AnotherIdentity(MachineError):
    """The user has a cross-signing identity already, and not all of its private keys are here.

    Verify this device, import the keys, or reset the identity.
    """

    code = "another_identity"


class WrongSigningKey(MachineError):
    """A private cross-signing key does not belong to the user's identity. No key was kept."""

    code = "wrong_signing_key"


class NotCanonical(MachineError):
    """A JSON value has no canonical encoding, so it can't be signed."""

    code = "not_canonical"


class MalformedMessage(MachineError):
    """A message, a key or an event does not have the form that the Matrix specification demands."""

    code = "malformed"


class MalformedResponse(MachineError):
    """A homeserver's response does not have the form that the Matrix specification demands. It was not used."""

    code = "malformed_response"


class RepeatedMessage(MachineError):
    """An Olm message was decrypted before."""

    code = "repeated"


class MessageUnreadable(MachineError):
    """A message can't be decrypted."""

    code = "unreadable"


class WrongRecipient(MachineError):
    """A decrypted Olm message is for another user or device, or does not name its recipient."""

    code = "wrong_recipient"


class WrongSender(MachineError):
    """A message does not come from the sender that it names, or does not name its sender."""

    code = "wrong_sender"


class UnsupportedAlgorithm(MachineError):
    """An event or a room uses an encryption algorithm that the machine does not know."""

    code = "unsupported_algorithm"


class MissingRoomKey(MachineError):
    """The key of a room message has not arrived. A later sync may bring it."""

    code = "missing_room_key"


class WithheldRoomKey(MachineError):
    """The sender of a room message withholds its key. ``reason_code`` says why, such as ``m.unverified``."""

    code = "withheld_room_key"

    def __init__(self, message: str, reason_code: str = "") -> None:
        super().__init__(message)
        self.reason_code = reason_code


class UnknownIndex(MachineError):
    """A room message has an index before the first index that its key can decrypt."""

    code = "unknown_index"


class ReplayedMessage(MachineError):
    """The same ciphertext was read before as another event."""

    code = "replayed"


class WrongRoom(MachineError):
    """A room message was encrypted for another room."""

    code = "wrong_room"


class RequestRefused(MachineError):
    """A request for a secret or a room key was refused: it is another user's, or too many requests wait already."""

    code = "request_refused"


class NotAsked(MachineError):
    """A device has sent a secret or a room key that it was not asked for, or the device is not verified."""

    code = "not_asked"


class WrongSecret(MachineError):
    """A device has sent a private key that does not belong to the public key."""

    code = "wrong_secret"


class NotEncrypted(MachineError):
    """The room is not known to be encrypted."""

    code = "not_encrypted"


class EncryptionDowngrade(MachineError):
    """An encrypted room would stop being encrypted, or change its algorithm."""

    code = "encryption_downgrade"


class RoomKeyNotShared(MachineError):
    """There is no room key that may be used now. Call ``share_room_key`` first.

    A share is valid until a device list, the settings or the age of the key demand another one (M9).
    """

    code = "room_key_not_shared"


class UnverifiedRecipients(MachineError):
    """The room's strategy forbids to share its key with its members. Nothing was shared (M9.9, M9.10).

    ``devices`` are not verified although their users are: verify or block each of them. The identities of ``users``
    were verified once and have changed: verify or accept each of them.
    """

    code = "unverified_recipients"

    def __init__(self, message: str, devices: tuple[Device, ...] = (), users: tuple[UserId, ...] = ()) -> None:
        super().__init__(message)
        self.devices = devices
        self.users = users


class NoBackup(MachineError):
    """No backup is known, or the known backup is not the one that the call is for."""

    code = "no_backup"


class WrongBackupKey(MachineError):
    """A decryption key does not belong to the backup."""

    code = "wrong_backup_key"


class UnknownVerification(MachineError):
    """There is no such verification, or it was forgotten after its end."""

    code = "unknown_verification"


class WrongPhase(MachineError):
    """A verification is not in the phase that the call needs."""

    code = "wrong_phase"


class UnknownDevice(MachineError):
    """The keys of a device or of its owner are not known. Track the owner, and send the outgoing requests."""

    code = "unknown_device"


class UnsupportedVerification(MachineError):
    """The two devices do not share the method of verification that the call needs."""

    code = "unsupported_verification"


class TooManyVerifications(MachineError):
    """A request for a verification was dropped, since others have begun too many (M16.17)."""

    code = "too_many_verifications"


class MalformedQrCode(MachineError):
    """The scanned bytes are not the QR code of a verification."""

    code = "malformed_qr_code"


class WrongQrCode(MachineError):
    """The QR code belongs to another verification."""

    code = "wrong_qr_code"
