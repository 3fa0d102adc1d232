"""What only a recovery key opens: the private keys of the bot's identity, and the key of its backup."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Final
from urllib.parse import quote

from examples.encrypted_bot.client import ROOT, Client, Refused
from unwedged.machine import SigningKeyName, SigningSeeds
from unwedged.machine.identifiers import JsonObject
from unwedged.machine.secret_storage import (
    DEFAULT_KEY,
    decrypt_secret,
    default_key_content,
    default_key_id,
    encrypt_secret,
    key_event_type,
    key_from_recovery_key,
    new_storage_key,
)

BACKUP: Final = "m.megolm_backup.v1"
BOOTSTRAP_ROUNDS: Final = 5
"""A query, the keys and the signatures are three."""


class IdentityIncomplete(Exception):
    """The bot has no identity, although all that it asks for was sent."""


async def set_up(client: Client) -> str | None:
    """Make the bot's identity, backup and secret storage. Return its recovery key, unless there was one before.

    The name of the default key is written last. Until it is there, a process goes on with what another has begun.
    """
    if await _is_there(client, DEFAULT_KEY):
        return None
    machine = client.machine
    await bootstrap(client)
    await client.send(await machine.key_backup.version_query())  # which may answer that there is none
    backup = await machine.key_backup.status()
    if backup is None or not backup.is_on:
        await client.send((await machine.key_backup.create_version()).request)
    seeds = await machine.cross_signing.export_seeds()
    secrets = {_name(name): seeds.seed(name) for name in SigningKeyName}
    secrets[BACKUP] = await machine.key_backup.decryption_key()
    key = new_storage_key()
    await _put(client, key_event_type(key.key_id), key.description)
    for name, secret in secrets.items():
        assert secret is not None  # The identity is complete, and so is the backup.
        await _put(client, name, encrypt_secret(name, b64encode(secret).decode().rstrip("="), [key]))
    await _put(client, DEFAULT_KEY, default_key_content(key.key_id))
    return key.recovery_key


async def bootstrap(client: Client) -> None:
    """Make the bot's identity. Synapse takes a user's first one without a password.

    Raises ``IdentityIncomplete``.
    """
    status = await client.machine.cross_signing.bootstrap()
    for _ in range(BOOTSTRAP_ROUNDS):
        if status.is_complete:
            return
        await client.send_all()
        status = await client.machine.cross_signing.bootstrap()
    if not status.is_complete:
        raise IdentityIncomplete(
            f"the homeserver did not take the bot's identity in {BOOTSTRAP_ROUNDS} rounds: {status}"
        )


async def restore(client: Client, recovery_key: str) -> int:
    """Give a new device what the recovery key opens; return how many room keys came from the backup."""
    machine = client.machine
    await machine.track_users([machine.device.user_id])
    await client.send_all()  # Now it is known which identity the bot has.
    key_id = default_key_id(await _get(client, DEFAULT_KEY))
    key = key_from_recovery_key(key_id, await _get(client, key_event_type(key_id)), recovery_key)

    async def opened(name: str) -> bytes:
        secret = decrypt_secret(name, await _get(client, name), key)
        return b64decode(secret + "=" * (-len(secret) % 4))

    seeds = {name.value: await opened(_name(name)) for name in SigningKeyName}
    await machine.cross_signing.import_seeds(SigningSeeds(**seeds))
    await client.send(await machine.key_backup.version_query())
    await machine.key_backup.import_decryption_key(await opened(BACKUP))
    await client.send_all()  # The device's own signature, by the bot's identity.
    download = await machine.key_backup.download()
    kept = 0
    response = await client.call(download.method, download.path)
    async for progress in machine.key_backup.restore(download, response):
        kept = progress.kept
    return kept


def _name(name: SigningKeyName) -> str:
    return f"m.cross_signing.{name.value}"


def _path(client: Client, event_type: str) -> str:
    return f"{ROOT}/user/{quote(client.machine.device.user_id)}/account_data/{quote(event_type, safe='')}"


async def _is_there(client: Client, event_type: str) -> bool:
    try:
        await _get(client, event_type)
    except Refused as refused:
        if refused.status == 404:
            return False
        raise
    return True


async def _get(client: Client, event_type: str) -> JsonObject:
    return await client.call("GET", _path(client, event_type))


async def _put(client: Client, event_type: str, content: JsonObject) -> None:
    await client.call("PUT", _path(client, event_type), content)
