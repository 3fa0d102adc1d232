"""Secrets that a user's verified devices give each other: private cross-signing keys, and the key of the backup.

A private cross-signing key counts only if it belongs to the public key. What can't be used here stays in the secret
inbox until the application deletes it. The key of a backup version that is not known yet stays there until it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from unwedged.machine import backup, identities
from unwedged.machine.account import own_device
from unwedged.machine.asking import ask, must_be_asked, settle
from unwedged.machine.devices import track
from unwedged.machine.errors import MalformedMessage, NotAsked, WrongSecret
from unwedged.machine.identifiers import RequestId
from unwedged.machine.olm import OlmEvent
from unwedged.machine.records import ASKED, BACKUP, SECRET, ReceivedSecret, SigningKeyName, WantedSecret
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.machine.unshown import Unshown
from unwedged.machine.wire import is_storable, parsed
from unwedged.store import Transaction, View

SECRET_SEND: Final = "m.secret.send"  # noqa: S105 (a type of event)
BACKUP_KEY: Final = "m.megolm_backup.v1"
SIGNING_KEYS: Final = {f"m.cross_signing.{name.value}": name for name in SigningKeyName}
"""By the names that their private halves have as secrets."""


class _Send(Unshown, msgspec.Struct):
    request_id: RequestId
    secret: str


async def request(transaction: Transaction, names: Iterable[str]) -> None:
    """Ask the user's other devices for secrets."""
    await track(transaction, [(await own_device(transaction)).user_id])
    await ask(transaction, [WantedSecret(name) for name in names])


async def missing(reading: Transaction | View) -> list[str]:
    """Return the names of the secrets that this machine could use, and has not got."""
    return [name for name in (*SIGNING_KEYS, BACKUP_KEY) if not await is_here(reading, name)]


async def is_here(reading: Transaction | View, name: str) -> bool:
    """Say whether a secret is here, so that nobody needs to be asked for it."""
    return await secret_named(reading, name) is not None or await reading.get(SECRET, name) is not None


async def secret_named(reading: Transaction | View, name: str) -> str | None:
    """Return a secret that this machine uses, as it is given to other devices."""
    key: bytes | None = None
    if name in SIGNING_KEYS:
        key = await identities.private_seed(reading, SIGNING_KEYS[name])
    elif name == BACKUP_KEY:
        known = await reading.get(BACKUP, None)
        if known is not None and known.version is not None:
            key = known.decryption_key
    return None if key is None else to_unpadded(key)


# M17.4, M17.5
async def receive_secret(transaction: Transaction, event: OlmEvent) -> None:
    """Take a secret from a device that was asked for it. Raises ``NotAsked``, ``MalformedMessage``, ``WrongSecret``."""
    sent = parsed(event.content, _Send, "a secret")
    if not is_storable((sent.request_id, sent.secret)):
        raise MalformedMessage("a secret, or the id of its request, is no text")
    asked = await transaction.get(ASKED, sent.request_id)
    device_id = await must_be_asked(transaction, asked, event)
    if asked is None or not isinstance(asked.wanted, WantedSecret):
        raise NotAsked("a secret answers a request for a room key")
    name = asked.wanted.name
    if not await _use(transaction, name, sent.secret):
        transaction.put(SECRET, name, ReceivedSecret(sent.secret, device_id))
    await settle(transaction, sent.request_id, asked, device_id)


async def _use(transaction: Transaction, name: str, secret: str) -> bool:
    """Say whether a secret was put to its use. Raises ``WrongSecret`` for a key that is not that of the public key."""
    if name in SIGNING_KEYS:
        if not await identities.keep_private_seed(transaction, SIGNING_KEYS[name], _key(secret)):
            raise WrongSecret("a private cross-signing key is not that of the public key")
        await identities.sign_verified(transaction, SIGNING_KEYS[name], _key(secret))
        return True
    return name == BACKUP_KEY and await backup.keep_decryption_key(transaction, _key(secret))


async def use_backup_key(transaction: Transaction) -> None:
    """Put the key of the backup that is in the inbox to its use, if it is that of the version that is known by now."""
    received = await transaction.get(SECRET, BACKUP_KEY)
    if received is not None and await backup.keep_decryption_key(transaction, _key(received.secret)):
        transaction.delete(SECRET, BACKUP_KEY)


def _key(secret: str) -> bytes:
    try:
        return unpadded(secret)
    except ValueError:  # It says nothing of the secret, and is dropped all the same.
        pass
    raise MalformedMessage("a private key is not base64")
