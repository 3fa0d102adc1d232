"""Secrets of this user that the user's devices give each other, as an application deals with them."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager

from unwedged.machine import secrets
from unwedged.machine.errors import InvalidArgument
from unwedged.machine.records import SECRET, ReceivedSecret
from unwedged.store import CryptoStore, Subscription, Transaction, View
from unwedged.store.arguments import text_of


class SecretSharing:
    """Secrets, as ``OlmMachine.secrets``.

    Private cross-signing keys and the decryption key of the backup are given to this user's verified devices when they
    ask for them. This device asks for them by ``request_missing``, in whichever process: once, however often it is
    called. Each of the user's devices that is verified, now or later, is asked. What fits is used; what can't be used
    here stays in the secret inbox until the application deletes it, such as the key of a backup whose version is not
    known here yet (``KeyBackup.import_decryption_key``).
    """

    def __init__(self, store: CryptoStore) -> None:
        """Callers use ``OlmMachine.secrets``."""
        self._store = store

    async def request_missing(self) -> list[str]:
        """Ask for the private cross-signing keys and the decryption key of the backup that are not here; name them."""

        async def ask(transaction: Transaction) -> list[str]:
            names = await secrets.missing(transaction)
            await secrets.request(transaction, names)
            return names

        return await self._store.run(ask)

    async def request(self, names: Iterable[str]) -> None:
        """Ask for secrets by name, such as an application's own. What is in the secret inbox is not asked for."""
        if isinstance(names, str):
            raise InvalidArgument("secrets are several, such as a list of names, not one text")
        await self._store.run(secrets.request, [text_of(name, "the name of a secret") for name in names])

    async def received(self, name: str) -> ReceivedSecret | None:
        """Return a secret from the secret inbox. It came from a verified device that was asked for it."""

        async def read(view: View) -> ReceivedSecret | None:
            return await view.get(SECRET, name)

        return await self._store.query(read)

    async def delete_received(self, name: str) -> None:
        """Delete a secret from the secret inbox, after it was used or found to be wrong."""

        async def delete(transaction: Transaction) -> None:
            transaction.delete(SECRET, name)

        await self._store.run(delete)

    def secrets_stream(self) -> AbstractAsyncContextManager[Subscription[str]]:
        """Iterate over the names of secrets that come into the secret inbox or leave it, in whichever process."""
        return self._store.subscribe(SECRET)
