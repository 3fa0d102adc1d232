"""One Matrix device that several processes share, without losing a session.

::

    async with OlmMachine.open(
        "device.db", user_id="@bot:example.org", device_id="BOT", passphrase="...", label="bot"
    ) as machine:
        await machine.work_off_backlog()  # what another process has left
        for request in await machine.outgoing_requests():
            response = await http.request(request.method, request.path, json=request.body)
            await machine.mark_sent(request, response.json())

        position = await machine.sync_position()
        since = {} if position.token is None else {"since": position.token}
        response = await http.request("GET", "/_matrix/client/v3/sync", params=since)
        await machine.receive_sync_changes(response.json(), position)

        await machine.set_room_encryption(room_id, encryption)  # the content of the room's m.room.encryption event
        await machine.track_users(members)
        while not (shared := await machine.share_room_key(room_id, members)).reaches_all:
            ...  # send the outgoing requests, as above: a query, a claim, the key itself. Stop after a few rounds.
        message = {"msgtype": "m.text", "body": "Hello"}
        content = await machine.encrypt_room_event(room_id, shared, "m.room.message", message)

The attributes ``cross_signing``, ``verifications``, ``key_backup`` and ``secrets`` of a machine have the calls of these
topics. A request may be answered in another process than the one that made it: ``requests.encode`` and
``requests.decode`` carry it there. Key export files, encrypted attachments and the secret storage are in ``exports``,
``attachments`` and ``secret_storage``.

Every exception that is raised on purpose is a ``MachineError``, or a ``StoreError`` of ``unwedged.store``.

The names in ``__all__`` and the modules ``requests``, ``identifiers``, ``exports``, ``attachments`` and
``secret_storage`` are the public interface. The other modules below are not.
"""

from importlib.util import find_spec

if missing := [name for name in ("msgspec", "vodozemac") if find_spec(name) is None]:
    raise ModuleNotFoundError(
        f"unwedged.machine needs {' and '.join(missing)}: install the package with its extra, as unwedged[machine]"
    )

from unwedged.machine.backup import NewBackupVersion
from unwedged.machine.cross_signing import CrossSigning, CrossSigningStatus
from unwedged.machine.errors import (
    AnotherDevice,
    AnotherIdentity,
    EncryptionDowngrade,
    InvalidArgument,
    MachineError,
    MalformedAttachmentKey,
    MalformedExport,
    MalformedExportedSessions,
    MalformedMessage,
    MalformedQrCode,
    MalformedRecoveryKey,
    MalformedResponse,
    MalformedStorageKey,
    MalformedStoredSecret,
    MessageUnreadable,
    MissingRoomKey,
    NoBackup,
    NotAsked,
    NotCanonical,
    NotEncrypted,
    NotStoredForKey,
    RepeatedMessage,
    ReplayedMessage,
    RequestRefused,
    RoomKeyNotShared,
    RoundsOutOfBounds,
    TamperedAttachment,
    TamperedStoredSecret,
    TooManyVerifications,
    UncheckedStorageKey,
    UnknownDevice,
    UnknownIndex,
    UnknownVerification,
    UnsupportedAlgorithm,
    UnsupportedAttachment,
    UnsupportedExport,
    UnsupportedStorageKey,
    UnsupportedVerification,
    UnverifiedRecipients,
    WithheldRoomKey,
    WrongBackupKey,
    WrongExportPassphrase,
    WrongPhase,
    WrongQrCode,
    WrongRecipient,
    WrongRoom,
    WrongSecret,
    WrongSender,
    WrongSigningKey,
    WrongStorageKey,
)
from unwedged.machine.identities import DeviceTrust, UserTrust
from unwedged.machine.inbox import Problem, SyncOutcome, ToDeviceEvent
from unwedged.machine.key_backup import BackupStatus, KeyBackup, RestoreProgress
from unwedged.machine.machine import OlmMachine
from unwedged.machine.records import (
    Cancellation,
    KnownDevice,
    LocalTrust,
    Method,
    Phase,
    ReceivedSecret,
    SharingStrategy,
    SigningKeyName,
    SigningSeeds,
)
from unwedged.machine.requests import (
    BackupDownload,
    BackupUpload,
    BackupVersionCreate,
    BackupVersionQuery,
    KeysClaim,
    KeysQuery,
    KeysUpload,
    Request,
    RoomMessage,
    SignatureUpload,
    SigningKeysUpload,
    ToDevice,
)
from unwedged.machine.rooms import DecryptedEvent, SenderTrust
from unwedged.machine.sas import Emoji
from unwedged.machine.secret_sharing import SecretSharing
from unwedged.machine.sharing import Sharing
from unwedged.machine.sync import SyncPosition
from unwedged.machine.verifications import Verification, Verifications

__all__ = [
    "AnotherDevice",
    "AnotherIdentity",
    "BackupDownload",
    "BackupStatus",
    "BackupUpload",
    "BackupVersionCreate",
    "BackupVersionQuery",
    "Cancellation",
    "CrossSigning",
    "CrossSigningStatus",
    "DecryptedEvent",
    "DeviceTrust",
    "Emoji",
    "EncryptionDowngrade",
    "InvalidArgument",
    "KeyBackup",
    "KeysClaim",
    "KeysQuery",
    "KeysUpload",
    "KnownDevice",
    "LocalTrust",
    "MachineError",
    "MalformedAttachmentKey",
    "MalformedExport",
    "MalformedExportedSessions",
    "MalformedMessage",
    "MalformedQrCode",
    "MalformedRecoveryKey",
    "MalformedResponse",
    "MalformedStorageKey",
    "MalformedStoredSecret",
    "MessageUnreadable",
    "Method",
    "MissingRoomKey",
    "NewBackupVersion",
    "NoBackup",
    "NotAsked",
    "NotCanonical",
    "NotEncrypted",
    "NotStoredForKey",
    "OlmMachine",
    "Phase",
    "Problem",
    "ReceivedSecret",
    "RepeatedMessage",
    "ReplayedMessage",
    "Request",
    "RequestRefused",
    "RestoreProgress",
    "RoomKeyNotShared",
    "RoomMessage",
    "RoundsOutOfBounds",
    "SecretSharing",
    "SenderTrust",
    "Sharing",
    "SharingStrategy",
    "SignatureUpload",
    "SigningKeyName",
    "SigningKeysUpload",
    "SigningSeeds",
    "SyncOutcome",
    "SyncPosition",
    "TamperedAttachment",
    "TamperedStoredSecret",
    "ToDevice",
    "ToDeviceEvent",
    "TooManyVerifications",
    "UncheckedStorageKey",
    "UnknownDevice",
    "UnknownIndex",
    "UnknownVerification",
    "UnsupportedAlgorithm",
    "UnsupportedAttachment",
    "UnsupportedExport",
    "UnsupportedStorageKey",
    "UnsupportedVerification",
    "UnverifiedRecipients",
    "UserTrust",
    "Verification",
    "Verifications",
    "WithheldRoomKey",
    "WrongBackupKey",
    "WrongExportPassphrase",
    "WrongPhase",
    "WrongQrCode",
    "WrongRecipient",
    "WrongRoom",
    "WrongSecret",
    "WrongSender",
    "WrongSigningKey",
    "WrongStorageKey",
]


def __dir__() -> list[str]:
    return __all__
