"""Base64 as Matrix writes it: without padding (Matrix specification, appendices, "Unpadded Base64")."""

from __future__ import annotations

from base64 import b64decode, b64encode


def to_unpadded(data: bytes) -> str:
    """Encode without padding."""
    return b64encode(data).decode("ascii").rstrip("=")


def unpadded(text: str) -> bytes:
    """Decode text with or without padding. Raises ``ValueError``."""
    digits = text.rstrip("=")
    return b64decode(digits + "=" * (-len(digits) % 4), validate=True)
