"""The private cross-signing keys of this device's user: how they are made and published, and what they sign (M15).

The first process that needs the keys makes them. They are records before any request leaves. A request is listed until
it is answered, so that any process can go on with it.
"""

from __future__ import annotations

import logging
import secrets
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final

import msgspec

from unwedged.machine import devices, identities
from unwedged.machine.account import own_device
from unwedged.machine.errors import AnotherIdentity, InvalidArgument, WrongSigningKey
from unwedged.machine.identifiers import DeviceId, Ed25519Key, JsonObject, TransactionId, UserId
from unwedged.machine.identities import UserTrust
from unwedged.machine.records import (
    IDENTITY,
    OUTDATED,
    OWN_DEVICE,
    PRIVATE_IDENTITY,
    UNPUBLISHED_SIGNATURE,
    Identity,
    OwnDevice,
    PendingIdentity,
    PrivateIdentity,
    SigningKeyName,
    SigningSeeds,
)
from unwedged.machine.requests import SignatureUpload, SigningKeysUpload, objects
from unwedged.machine.signing import public_key, with_signature
from unwedged.store import CryptoStore, Subscription, Transaction, View

SIGNATURES_IN_A_REQUEST: Final = 250

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CrossSigningStatus:
    """What is known of the identity of this device's user, and which of its private keys are here."""

    master_key: Ed25519Key | None
    """The public master key, if it is known."""
    verified: bool
    """Whether the identity is verified on this device."""
    private_keys: frozenset[SigningKeyName]
    """Which private keys are here and belong to the identity."""
    useless_keys: frozenset[SigningKeyName]
    """Which private keys are here but belong to an earlier identity of the user."""
    own_device_signed: bool
    """Whether the homeserver has the identity's signature of this device."""
    pending: bool
    """Whether there are keys that were made here and that the homeserver has not confirmed."""

    @property
    def is_complete(self) -> bool:
        """Whether ``bootstrap`` has nothing left to do."""
        return len(self.private_keys) == len(SigningKeyName) and self.own_device_signed and not self.pending


class CrossSigning:
    """Cross-signing, as ``OlmMachine.cross_signing``."""

    def __init__(self, store: CryptoStore) -> None:
        """Callers use ``OlmMachine.cross_signing``."""
        self._store = store

    async def bootstrap(self) -> CrossSigningStatus:
        """Make an identity for this device's user if there is none, or go on with what was begun (M15.10, M15.11).

        Send the outgoing requests and call it again until the status ``is_complete``. There may be a query, an upload
        of keys (see ``SigningKeysUpload`` about authentication) and an upload of signatures. Raises
        ``AnotherIdentity`` if the user has an identity already and not all of its private keys are here.
        """
        return await self._store.run(bootstrap)

    async def reset(self) -> CrossSigningStatus:
        """Make a new identity in place of the one that the user has. Then go on with ``bootstrap``.

        The old private keys stay until the homeserver has confirmed the new ones. ``mark_failed`` with the status 403
        ends the reset.
        """
        return await self._store.run(reset)

    async def status(self) -> CrossSigningStatus:
        """Return what is known of the identity of this device's user."""
        return await self._store.query(status)

    async def export_seeds(self) -> SigningSeeds:
        """Return the private keys that are here and belong to the identity. They are secrets: they act for the user."""
        return await self._store.query(identities.fitting_seeds)

    async def import_seeds(self, seeds: SigningSeeds) -> CrossSigningStatus:
        """Keep private keys that another device or a person has provided: all of them, or none (M15.18).

        To import the master key verifies the identity. Raises ``WrongSigningKey`` if a key does not belong to the
        identity, or if the identity is not known yet: on a new device, first track the user
        (``OlmMachine.track_users``) and send the query. Raises ``InvalidArgument`` for another type.
        """
        if not isinstance(seeds, SigningSeeds):
            raise InvalidArgument(f"private keys are SigningSeeds, and no {type(seeds).__name__}")
        return await self._store.run(import_seeds, seeds)

    async def trust_of(self, user_id: str) -> UserTrust:
        """Return what is known of a user's identity, and whether it is verified."""
        return await self._store.query(identities.user_trust, UserId(user_id))

    async def verify_user(self, user_id: str, master_key: str) -> None:
        """Note that a person has compared this master key of a user; sign it if the private key for that is here.

        Raises ``InvalidArgument`` if no identity of this user with this key is known.
        """
        names = UserId(user_id), Ed25519Key(master_key)
        await self._store.run(identities.note_identity_verified, *names)

    async def verify_device(self, user_id: str, device_id: str, ed25519: str) -> None:
        """Note that a person has compared this Ed25519 key of a device; sign the device if it belongs to this user.

        Raises ``InvalidArgument`` if no such device with this key is known.
        """
        names = UserId(user_id), DeviceId(device_id), Ed25519Key(ed25519)
        await self._store.run(identities.note_device_verified, *names)

    async def accept_identity(self, user_id: str, master_key: str) -> None:
        """Accept the changed identity of a user without a comparison of its key.

        The earlier verification is withdrawn. Raises ``InvalidArgument`` if no identity with this key is known.
        """
        await self._store.run(identities.accept_identity, UserId(user_id), Ed25519Key(master_key))

    def identities_stream(self) -> AbstractAsyncContextManager[Subscription[UserId]]:
        """Iterate over the users whose identities change, whichever process receives the change."""
        return self._store.subscribe(IDENTITY)

    def cross_signing_status_stream(self) -> AbstractAsyncContextManager[Subscription[None]]:
        """Iterate over the changes of the private keys that are here, whichever process makes them."""
        return self._store.subscribe(PRIVATE_IDENTITY)


async def bootstrap(transaction: Transaction) -> CrossSigningStatus:
    """Make an identity, or go on with what was begun. Raises ``AnotherIdentity``."""
    own = await own_device(transaction)
    await devices.track(transaction, [own.user_id])
    if await transaction.get(OUTDATED, own.user_id) is not None:
        return await status(transaction)  # it is not known yet whether the user has an identity
    private = await transaction.get(PRIVATE_IDENTITY, None) or PrivateIdentity()
    identity = await identities.identity_of(transaction, own.user_id)
    pending = private.pending
    abandoned = pending is not None and pending.reset and not pending.listed
    if pending is not None and _may_replace(pending, identity) and not abandoned:
        _list(transaction, private, pending)
    elif identity is None:
        _list(transaction, private, pending or _made(reset=False))
    else:
        seeds = await identities.fitting_seeds(transaction)
        if None in (seeds.master, seeds.self_signing, seeds.user_signing):
            raise AnotherIdentity("the user has an identity, and not all of its private keys are here")
        if await transaction.keys(UNPUBLISHED_SIGNATURE) == ():
            await _sign(transaction, own, identity, seeds)
    return await status(transaction)


async def reset(transaction: Transaction) -> CrossSigningStatus:
    """Make a new identity for a reset, or go on with a reset that was begun."""
    own = await own_device(transaction)
    await devices.track(transaction, [own.user_id])
    private = await transaction.get(PRIVATE_IDENTITY, None) or PrivateIdentity()
    goes_on = private.pending is not None and private.pending.reset
    pending = private.pending if private.pending is not None and goes_on else _made(reset=True)
    _list(transaction, private, pending)
    return await status(transaction)


async def status(reading: Transaction | View) -> CrossSigningStatus:
    """Return what is known of the identity of this device's user."""
    own = await own_device(reading)
    trust = await identities.user_trust(reading, own.user_id)
    private = await reading.get(PRIVATE_IDENTITY, None) or PrivateIdentity()
    fitting = await identities.fitting_seeds(reading)
    here = {name for name in SigningKeyName if private.seeds.seed(name) is not None}
    fit = {name for name in SigningKeyName if fitting.seed(name) is not None}
    identity = trust.identity
    signed = identity is not None and identities.is_cross_signed(own.user_id, identity, own.keys)
    pending = _is_to_be_uploaded(private.pending, identity)
    return CrossSigningStatus(trust.master_key, trust.verified, frozenset(fit), frozenset(here - fit), signed, pending)


async def import_seeds(transaction: Transaction, seeds: SigningSeeds) -> CrossSigningStatus:
    """Keep private keys, and sign what they can sign. Raises ``WrongSigningKey``."""
    for name in SigningKeyName:
        seed = seeds.seed(name)
        if seed is not None and not await identities.keep_private_seed(transaction, name, seed):
            raise WrongSigningKey(f"the {name.value} key is not that of the user's identity, as far as it is known")
    own = await own_device(transaction)
    trust = await identities.user_trust(transaction, own.user_id)
    if trust.identity is not None and trust.verified:
        await _sign(transaction, own, trust.identity, await identities.fitting_seeds(transaction))
    return await status(transaction)


async def uploads(reading: Transaction | View) -> list[SigningKeysUpload | SignatureUpload]:
    """Return the uploads of keys and signatures (M15.11, M15.16). Each may be sent any number of times."""
    own = await own_device(reading)
    private = await reading.get(PRIVATE_IDENTITY, None) or PrivateIdentity()
    identity = await identities.identity_of(reading, own.user_id)
    requests: list[SigningKeysUpload | SignatureUpload] = []
    pending = private.pending
    # While our own device list is out of date, the user may have an identity that is not known here.
    known = await reading.get(OUTDATED, own.user_id) is None
    if pending is not None and _is_to_be_uploaded(pending, identity) and (known or pending.reset):
        requests.append(_keys_upload(own.user_id, pending.seeds))
    marks = await reading.keys(UNPUBLISHED_SIGNATURE)
    if own.published:  # A homeserver refuses signatures of a device that it does not know.
        parts = range(0, len(marks), SIGNATURES_IN_A_REQUEST)
        requests += [await _signature_upload(reading, marks[at : at + SIGNATURES_IN_A_REQUEST]) for at in parts]
    return requests


async def take_keys_answer(transaction: Transaction, request: SigningKeysUpload) -> None:
    """Note that the homeserver has the keys that were made here, and sign this device with them (M15.10, M15.12)."""
    private = await _pending(transaction, request)
    if private is None or private.pending is None:
        return
    own = await own_device(transaction)
    seeds = private.pending.seeds
    keys = _public_keys(own.user_id, seeds)
    key = request.master_key
    identity = Identity(
        keys[SigningKeyName.MASTER],
        keys[SigningKeyName.SELF_SIGNING],
        keys[SigningKeyName.USER_SIGNING],
        pinned=key,
        compared=key,
        verified_once=True,
    )
    transaction.put(PRIVATE_IDENTITY, None, PrivateIdentity(seeds))
    await identities.put_identity(transaction, own.user_id, identity)
    await _sign(transaction, own, identity, seeds)
    # The answer to a query that was asked before would bring the old identity back.
    await devices.note_changed(transaction, [own.user_id])


# M15.13
async def take_keys_refusal(transaction: Transaction, request: SigningKeysUpload) -> None:
    """Stop listing an upload that the homeserver has refused. Its keys stay, since the homeserver may have them."""
    private = await _pending(transaction, request)
    if private is not None and private.pending is not None and private.pending.listed:
        pending = msgspec.structs.replace(private.pending, listed=False)
        transaction.put(PRIVATE_IDENTITY, None, msgspec.structs.replace(private, pending=pending))


# M15.17
async def take_signatures_answer(transaction: Transaction, request: SignatureUpload, response: JsonObject) -> None:
    """Note which signatures the homeserver has. A refused signature is not sent again. Trust on this device stays."""
    failures = objects(response, "failures")
    own = await own_device(transaction)
    for mark in request.signatures:
        signature = await transaction.get(UNPUBLISHED_SIGNATURE, mark)
        if signature is None:
            continue
        transaction.delete(UNPUBLISHED_SIGNATURE, mark)
        identity = await identities.identity_of(transaction, signature.user_id)
        if signature.name in failures.get(signature.user_id, {}):
            logger.warning("a signature was refused own=%s", signature.user_id == own.user_id)
        elif (signature.user_id, signature.name) == (own.user_id, own.device_id):
            own.keys = _with_signatures_of(own.keys, signature.signed, own.user_id)
            transaction.put(OWN_DEVICE, None, own)
        elif identity is not None and identity.master_key == signature.name:
            master = _with_signatures_of(identity.master, signature.signed, own.user_id)
            signed = msgspec.structs.replace(identity, master=master)
            await identities.put_identity(transaction, signature.user_id, signed)


async def take_signatures_refusal(transaction: Transaction, request: SignatureUpload) -> None:
    """Delete signatures that the homeserver has refused for good."""
    logger.warning("an upload of signatures was refused count=%d", len(request.signatures))
    for mark in request.signatures:
        if await transaction.get(UNPUBLISHED_SIGNATURE, mark) is not None:
            transaction.delete(UNPUBLISHED_SIGNATURE, mark)


def _made(*, reset: bool) -> PendingIdentity:
    seeds = SigningSeeds(*(secrets.token_bytes(32) for _ in SigningKeyName))
    return PendingIdentity(seeds, reset)


def _list(transaction: Transaction, private: PrivateIdentity, pending: PendingIdentity) -> None:
    listed = msgspec.structs.replace(private, pending=msgspec.structs.replace(pending, listed=True))
    if listed != private:
        transaction.put(PRIVATE_IDENTITY, None, listed)


def _may_replace(pending: PendingIdentity, identity: Identity | None) -> bool:
    """Return whether keys that were made here may be uploaded: never over an identity, except to reset it (pure)."""
    return pending.reset or identity is None or identity.master_key == _master_key(pending.seeds)


def _is_to_be_uploaded(pending: PendingIdentity | None, identity: Identity | None) -> bool:
    return pending is not None and pending.listed and _may_replace(pending, identity)


def _master_key(seeds: SigningSeeds) -> Ed25519Key:
    assert seeds.master is not None  # made together
    return public_key(seeds.master)


def _public_keys(user_id: UserId, seeds: SigningSeeds) -> dict[SigningKeyName, JsonObject]:
    every = {name: seed for name in SigningKeyName if (seed := seeds.seed(name)) is not None}
    return identities.signing_keys(user_id, every)


def _keys_upload(user_id: UserId, seeds: SigningSeeds) -> SigningKeysUpload:
    keys = _public_keys(user_id, seeds)
    return SigningKeysUpload(_master_key(seeds), {f"{name.value}_key": key for name, key in keys.items()})


async def _signature_upload(reading: Transaction | View, marks: tuple[TransactionId, ...]) -> SignatureUpload:
    body: dict[str, dict[str, JsonObject]] = {}
    for mark in marks:
        signature = await reading.get(UNPUBLISHED_SIGNATURE, mark)
        assert signature is not None  # listed
        body.setdefault(signature.user_id, {})[signature.name] = signature.signed
    return SignatureUpload(marks, dict(body))


async def _pending(transaction: Transaction, request: SigningKeysUpload) -> PrivateIdentity | None:
    """Return the private keys if the keys of the request are still pending, otherwise ``None``."""
    private = await transaction.get(PRIVATE_IDENTITY, None)
    if private is None or private.pending is None or _master_key(private.pending.seeds) != request.master_key:
        return None
    return private


async def _sign(transaction: Transaction, own: OwnDevice, identity: Identity, seeds: SigningSeeds) -> None:
    """Sign this device, the master key, and everything that was verified here, unless a signature is known already."""
    if seeds.self_signing is not None and not identities.is_cross_signed(own.user_id, identity, own.keys):
        identities.sign_own_device(transaction, own, seeds.self_signing)
    await identities.sign_own_master_key(transaction, identity)
    for name in (SigningKeyName.SELF_SIGNING, SigningKeyName.USER_SIGNING):
        seed = seeds.seed(name)
        if seed is not None:
            await identities.sign_verified(transaction, name, seed)


def _with_signatures_of(value: JsonObject, signed: JsonObject, signer: UserId) -> JsonObject:
    """Return ``value`` with the signatures added that the user ``signer`` has made in ``signed``."""
    signatures = signed["signatures"]
    assert isinstance(signatures, dict)  # made here
    for key_id, signature in signatures[signer].items():
        value = with_signature(value, signer, key_id, signature)
    return value
