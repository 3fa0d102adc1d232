"""Every exception the machine raises on purpose. None carries a secret or a plaintext, and each changes nothing."""

from __future__ import annotations

from typing import ClassVar


class MachineError(Exception):
    """Something about Matrix is not as it must be."""

    code: ClassVar[str] = "machine_error"
    """What a program compares. It stays as it is, also where the name of the class or the text changes."""


class InvalidArgument(MachineError, ValueError):
    """A value that was given is of a type, or has a content, that the machine can do nothing with."""

    code = "invalid_argument"


class MalformedExport(MachineError):
    """A text is no key export file, or a part of it is missing."""

    code = "malformed_export"


class UnsupportedExport(MachineError):
    """A key export file has a version that is not known."""

    code = "unsupported_export"


class RoundsOutOfBounds(MachineError):
    """A key export file asks for no rounds at all, or for so many that its key would take minutes."""

    code = "rounds_out_of_bounds"


class WrongExportPassphrase(MachineError):
    """The passphrase is not the one of the key export file, or the file was changed. Nobody can tell which."""

    code = "wrong_export_passphrase"


class MalformedExportedSessions(MachineError):
    """A key export file was decrypted, and what it holds is no list of sessions."""

    code = "malformed_exported_sessions"


class MalformedAttachmentKey(MachineError):
    """What is needed for decrypting an attachment is missing, or is not as the specification has it."""

    code = "malformed_attachment_key"


class UnsupportedAttachment(MachineError):
    """An attachment is encrypted by a version or an algorithm that is not known."""

    code = "unsupported_attachment"


class TamperedAttachment(MachineError):
    """An encrypted attachment is not the one that its sender hashed: it was cut, damaged or replaced."""

    code = "tampered_attachment"
