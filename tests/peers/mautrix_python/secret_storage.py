"""Run the secret storage of mautrix-python once: ``python secret_storage.py`` reads JSON and writes JSON.

It runs in the environment that has mautrix. Its input is a key (the id, the description, and the recovery key or the
passphrase) and a secret that is stored for that key under a name. Its output is the secret, and a new key that is
derived from the same passphrase, with the same secret stored for it.
"""

from __future__ import annotations

import base64
import json
import sys

from mautrix.crypto.ssss import EncryptedKeyData, Key, KeyMetadata

given = json.load(sys.stdin)
metadata = KeyMetadata.deserialize(given["description"])
key = metadata.verify_recovery_key(given["key_id"], given["recovery_key"])
if metadata.passphrase is not None:
    same = metadata.verify_passphrase(given["key_id"], given["passphrase"])
    assert same.key == key.key
secret = key.decrypt(given["name"], EncryptedKeyData.deserialize(given["encrypted"]))
own = Key.generate(given["passphrase"])
json.dump(
    {
        "secret": base64.b64encode(secret).decode().rstrip("="),
        "key_id": own.id,
        "description": own.metadata.serialize(),
        "recovery_key": own.recovery_key,
        "encrypted": own.encrypt(given["name"], secret).serialize(),
    },
    sys.stdout,
)
