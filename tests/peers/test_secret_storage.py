"""mautrix-python reads the secrets that we store in the secret storage, and we read its secrets."""

from __future__ import annotations

import os
import subprocess

import msgspec
import pytest

from tests.peers.peer import DRIVERS, INSTALLED
from unwedged.machine.secret_storage import (
    decrypt_secret,
    encrypt_secret,
    key_from_passphrase,
    key_from_recovery_key,
    new_storage_key,
)
from unwedged.machine.unpadded_base64 import to_unpadded

NAME, PASSPHRASE = "m.cross_signing.user_signing", "grüße"


class Theirs(msgspec.Struct):
    """The output of the program."""

    secret: str
    key_id: str
    description: dict[str, object]
    recovery_key: str
    encrypted: dict[str, object]


@pytest.mark.parametrize("passphrase", [PASSPHRASE, None])
def test_secrets_of_each_are_read_by_the_other(passphrase: str | None) -> None:
    key = new_storage_key(passphrase)
    secret = to_unpadded(os.urandom(32))
    content = encrypt_secret(NAME, secret, [key, new_storage_key()])["encrypted"]
    assert isinstance(content, dict)
    given = {
        "key_id": key.key_id,
        "description": key.description,
        "recovery_key": key.recovery_key,
        "passphrase": PASSPHRASE,
        "name": NAME,
        "encrypted": content[key.key_id],
    }
    command = [INSTALLED / "bin" / "python", DRIVERS / "mautrix_python" / "secret_storage.py"]
    ran = subprocess.run(command, input=msgspec.json.encode(given), capture_output=True, check=True)  # noqa: S603 (ours)
    theirs = msgspec.json.decode(ran.stdout, type=Theirs)
    assert theirs.secret == secret
    by_recovery_key = key_from_recovery_key(theirs.key_id, theirs.description, theirs.recovery_key)
    assert by_recovery_key == key_from_passphrase(theirs.key_id, theirs.description, PASSPHRASE)
    assert decrypt_secret(NAME, {"encrypted": {theirs.key_id: theirs.encrypted}}, by_recovery_key) == secret
