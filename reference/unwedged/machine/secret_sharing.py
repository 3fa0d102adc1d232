"""The calls for secrets that this user's devices exchange: ``OlmMachine.secrets`` (M17)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from unwedged.machine import secrets
from unwedged.machine.errors import InvalidArgument
from unwedged.machine.records import SECRET, ReceivedSecret
from unwedged.store import CryptoStore, Subscription, Transaction, View
from unwedged.store.arguments import text_of


class SecretSharing:
    """Secrets that this user's devices exchange.

    The machine sends private cross-signing keys and the decryption key of the backup to this user's verified devices
    that ask for them. ``request_missing`` asks for them, once, however often and in whichever process it is called.
    Each of the user's devices that is verified, now or later, is asked. A key that belongs to a known public key is
    used. A secret that can't be used yet stays in the secret inbox until the application deletes it, such as the key of
    a backup whose version is not known (``KeyBackup.import_decryption_key``).
    """

    def __init__(self, store: CryptoStore) -> None:
        """Callers use ``OlmMachine.secrets``."""
        self._store = store

    async def request_missing(self) -> list[str]:
        """Ask for the private cross-signing keys and the backup's key that are not here; return their names."""

        async def ask(transaction: Transaction) -> list[str]:
            names = await secrets.missing(transaction)
            await secrets.request(transaction, names)
            return names

        return await self._store.run(ask)

    async def request(self, names: Iterable[str]) -> None:
        """Ask for secrets by name, such as an application's own. Those in the secret inbox are not asked for."""
        if isinstance(names, str):
            raise InvalidArgument("secrets are several, such as a list of names, not one text")
        await self._store.run(secrets.request, [text_of(name, "the name of a secret") for name in names])

    async def received(self, name: str) -> ReceivedSecret | None:
        """Return a secret from the secret inbox, or ``None``. It came from a verified device that was asked for it."""

        async def read(view: View) -> ReceivedSecret | None:
            return await view.get(SECRET, name)

        return await self._store.query(read)

    async def delete_received(self, name: str) -> None:
        """Delete a secret from the secret inbox, after it was used or found to be wrong."""

        async def delete(transaction: Transaction) -> None:
            transaction.delete(SECRET, name)

        await self._store.run(delete)

    def secrets_stream(self) -> AbstractAsyncContextManager[Subscription[str]]:
        """Iterate over the names of secrets that enter or leave the secret inbox, in whichever process."""
        return self._store.subscribe(SECRET)
