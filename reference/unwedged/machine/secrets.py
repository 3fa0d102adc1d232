"""Secrets that a user's verified devices exchange: private cross-signing keys, and the key of the backup (M17).

A private cross-signing key is accepted only if it belongs to the public key. A secret that can't be used stays in the
secret inbox until the application deletes it. The key of an unknown backup version stays there until the version is
known.
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
"""The cross-signing keys by the names of their private halves as secrets."""


class _Send(Unshown, msgspec.Struct):
    request_id: RequestId
    secret: str


async def request(transaction: Transaction, names: Iterable[str]) -> None:
    """Ask the user's other devices for secrets."""
    await track(transaction, [(await own_device(transaction)).user_id])
    await ask(transaction, [WantedSecret(name) for name in names])


async def missing(reading: Transaction | View) -> list[str]:
    """Return the names of the secrets that this machine uses and does not have."""
    return [name for name in (*SIGNING_KEYS, BACKUP_KEY) if not await is_here(reading, name)]


async def is_here(reading: Transaction | View, name: str) -> bool:
    """Return whether a secret is here, so that no device needs to be asked for it."""
    return await secret_named(reading, name) is not None or await reading.get(SECRET, name) is not None


async def secret_named(reading: Transaction | View, name: str) -> str | None:
    """Return a secret that this machine uses, in the form in which other devices get it; ``None`` if it is not here."""
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
    """Use a secret from a device that was asked for it. Raises ``NotAsked``, ``MalformedMessage``, ``WrongSecret``."""
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
    """Use a secret; return whether it was used. Raises ``WrongSecret`` if a key does not belong to the public key."""
    if name in SIGNING_KEYS:
        if not await identities.keep_private_seed(transaction, SIGNING_KEYS[name], _key(secret)):
            raise WrongSecret("a private cross-signing key is not that of the public key")
        await identities.sign_verified(transaction, SIGNING_KEYS[name], _key(secret))
        return True
    return name == BACKUP_KEY and await backup.keep_decryption_key(transaction, _key(secret))


async def use_backup_key(transaction: Transaction) -> None:
    """Use the backup's key in the secret inbox, if it belongs to the version that is known by now (M17.5)."""
    received = await transaction.get(SECRET, BACKUP_KEY)
    if received is not None and await backup.keep_decryption_key(transaction, _key(received.secret)):
        transaction.delete(SECRET, BACKUP_KEY)


def _key(secret: str) -> bytes:
    try:
        return unpadded(secret)
    except ValueError:  # The exception says nothing about the secret, but is dropped anyway.
        pass
    raise MalformedMessage("a private key is not base64")
