"""Cross-signing identities: whose keys they are, which of them are verified, and which devices they make trusted (M15).

An identity is a user's master key and the keys that it signs. The first identity of a user is pinned. A later one is
reported as a change. If the earlier one was verified, the change is a violation, until a person verifies or accepts the
new identity.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import msgspec

from unwedged.machine.account import own_account, own_device
from unwedged.machine.errors import InvalidArgument
from unwedged.machine.identifiers import Curve25519Key, DeviceId, Ed25519Key, JsonObject, UserId
from unwedged.machine.olm import note_new_recipients
from unwedged.machine.outbox import new_id
from unwedged.machine.records import (
    DEVICES,
    IDENTITY,
    IDENTITY_TRUST,
    LOCAL_TRUST,
    PRIVATE_IDENTITY,
    UNPUBLISHED_SIGNATURE,
    Identity,
    KnownDevice,
    LocalTrust,
    OwnDevice,
    PrivateIdentity,
    SigningKeyName,
    SigningSeeds,
    UnpublishedSignature,
    only_key,
)
from unwedged.machine.signing import is_signed, public_key, signable, signed_by, with_signature, without_signatures
from unwedged.machine.unpadded_base64 import to_unpadded, unpadded
from unwedged.machine.wire import is_storable
from unwedged.store import Transaction, View

SIGNING_KEY_FIELDS: Final = {"user_id", "usage", "keys"}
"""The fields of a cross-signing key, apart from its signatures."""

logger = logging.getLogger(__name__)


class DeviceTrust(Enum):
    """Whether a device is known to belong to its user (M15.8)."""

    UNSIGNED = "unsigned"
    """Only the homeserver says that the device belongs to the user."""
    CROSS_SIGNED = "cross_signed"
    """Its user has signed it, but the user's identity is not verified."""
    VERIFIED = "verified"
    """The owner of this device has verified it, or it is signed by its user, whose identity is verified."""
    BLOCKED = "blocked"
    """The owner of this device has blocked it."""


@dataclass(frozen=True)
class UserTrust:
    """What is known of a user's identity. It is computed at each call and not stored (M15.9)."""

    user_id: UserId
    identity: Identity | None
    verified: bool
    """Whether the current identity is verified: here, or by another device of this device's user."""

    @property
    def master_key(self) -> Ed25519Key | None:
        """The public master key, which a person can compare; ``None`` if no identity is known."""
        return None if self.identity is None else self.identity.master_key

    @property
    def changed(self) -> bool:
        """Whether this is not the identity that was seen first or accepted last."""
        return self.identity is not None and self.identity.pinned != self.identity.master_key

    @property
    def violated(self) -> bool:
        """Whether the user was verified once and no longer is (M15.6). Verify the identity again, or accept it."""
        return self.identity is not None and self.identity.verified_once and not self.verified

    def of(self, device: KnownDevice) -> DeviceTrust:
        """Return how far a device of this user is trusted."""
        if device.trust is LocalTrust.BLOCKED:
            return DeviceTrust.BLOCKED
        signed = self.identity is not None and device.signed_by == self.identity.self_signing_key
        if device.trust is LocalTrust.VERIFIED or (signed and self.verified):
            return DeviceTrust.VERIFIED
        return DeviceTrust.CROSS_SIGNED if signed else DeviceTrust.UNSIGNED


def signing_keys(user_id: UserId, seeds: Mapping[SigningKeyName, bytes]) -> dict[SigningKeyName, JsonObject]:
    """Return the public keys for these private keys. The master key signs the other two (pure)."""
    keys: dict[SigningKeyName, JsonObject] = {}
    for name, seed in seeds.items():
        key = public_key(seed)
        keys[name] = {"user_id": user_id, "usage": [name.value], "keys": {f"ed25519:{key}": key}}
        if name is not SigningKeyName.MASTER:
            keys[name] = signed_by(keys[name], user_id, seeds[SigningKeyName.MASTER])
    return keys


def checked_keys(
    user_id: UserId, given: Mapping[SigningKeyName, JsonObject]
) -> dict[SigningKeyName, JsonObject] | None:
    """Return a user's keys as they were ``given``, or ``None`` if one of them is malformed or unsigned (pure) (M15.2).

    Each must name the user and its usage, and hold one key. The master key must have signed the other two. The
    user-signing key may be missing, since the homeserver shows it only to its owner.
    """
    if not {SigningKeyName.MASTER, SigningKeyName.SELF_SIGNING} <= given.keys():
        return None
    if not all(_is_signing_key(user_id, name, key) for name, key in given.items()):
        return None
    master = only_key(given[SigningKeyName.MASTER])
    signed = (key for name, key in given.items() if name is not SigningKeyName.MASTER)
    if not all(is_signed(key, user_id, f"ed25519:{master}", master) for key in signed):
        return None
    return dict(given)


def is_cross_signed(user_id: UserId, identity: Identity, keys: JsonObject) -> bool:
    """Return whether a user has signed the keys of a device (pure)."""
    key = identity.self_signing_key
    return is_signed(keys, user_id, f"ed25519:{key}", key)


def is_verified(user_id: UserId, identity: Identity, own_user: UserId, own: Identity | None) -> bool:
    """Return whether an identity is verified: here, or by a signature of this device's user (pure) (M15.4, M15.5).

    A signature by this device's user counts only while that user's own identity is verified here.
    """
    if identity.compared == identity.master_key:
        return True
    if user_id == own_user or own is None or own.compared != own.master_key or own.user_signing_key is None:
        return False
    return is_signed(identity.master, own_user, f"ed25519:{own.user_signing_key}", own.user_signing_key)


async def identity_of(reading: Transaction | View, user_id: UserId) -> Identity | None:
    """Return the identity of a user, or ``None`` if none is known."""
    return await reading.get(IDENTITY, user_id)


async def own_identity(reading: Transaction | View) -> Identity | None:
    """Return the identity of this device's user, or ``None`` if none is known."""
    return await identity_of(reading, (await own_device(reading)).user_id)


async def user_trust(reading: Transaction | View, user_id: UserId) -> UserTrust:
    """Return what is known of a user's identity."""
    identity = await identity_of(reading, user_id)
    if identity is None:
        return UserTrust(user_id, None, verified=False)
    own_user = (await own_device(reading)).user_id
    own = await identity_of(reading, own_user)
    return UserTrust(user_id, identity, is_verified(user_id, identity, own_user, own))


async def device_trust(reading: Transaction | View, user_id: UserId, device: KnownDevice) -> DeviceTrust:
    """Return how far a device is trusted (M15.9)."""
    return (await user_trust(reading, user_id)).of(device)


async def verified_own_devices(reading: Transaction | View) -> dict[Curve25519Key, KnownDevice]:
    """Return the verified devices of this device's user, without this device, by their Curve25519 keys.

    If several devices have the same key, the first counts. Requested secrets and room keys go only to these devices,
    and are accepted only from them.
    """
    own = await own_device(reading)
    trust = await user_trust(reading, own.user_id)
    verified: dict[Curve25519Key, KnownDevice] = {}
    for device in (await reading.get(DEVICES, own.user_id) or {}).values():
        if trust.of(device) is DeviceTrust.VERIFIED:
            verified.setdefault(device.curve25519, device)
    return verified


# M15.1, M15.3
async def take_keys(
    transaction: Transaction, user_id: UserId, given: dict[SigningKeyName, JsonObject]
) -> Identity | None:
    """Use a user's cross-signing keys from the answer to a query, and return the identity that is then known.

    Keys that are malformed or missing change nothing.
    """
    before = await transaction.get(IDENTITY, user_id)
    trust = await transaction.get(IDENTITY_TRUST, user_id)
    if not given:
        return before
    own_user = (await own_device(transaction)).user_id
    if user_id != own_user:
        given.pop(SigningKeyName.USER_SIGNING, None)
    keys = checked_keys(user_id, given)
    if keys is None:
        logger.warning("the cross-signing keys of a user were refused known=%s", before is not None)
        return before
    master, self_signing = keys[SigningKeyName.MASTER], keys[SigningKeyName.SELF_SIGNING]
    after = Identity(master, self_signing, keys.get(SigningKeyName.USER_SIGNING), only_key(master))
    if trust is not None:
        after = msgspec.structs.replace(
            after, pinned=trust.pinned, compared=trust.compared, verified_once=trust.verified_once
        )
    if before is not None and before.master_key != after.master_key:
        logger.warning("the identity of a user has changed verified_once=%s", before.verified_once)
    own = after if user_id == own_user else await identity_of(transaction, own_user)
    if is_verified(user_id, after, own_user, own):
        after = msgspec.structs.replace(after, verified_once=True)
    if after != before:
        await put_identity(transaction, user_id, after)
    return after


async def put_identity(transaction: Transaction, user_id: UserId, identity: Identity) -> None:
    """Write an identity, and note that the recipients of room keys may have changed."""
    _put_with_trust(transaction, user_id, identity)
    await note_new_recipients(transaction)


async def set_trust(
    transaction: Transaction, user_id: UserId, device_id: DeviceId, key: Ed25519Key, trust: LocalTrust
) -> None:
    """Note how far this device's owner trusts the device that has this ``key``.

    The key is the one that a person has compared: another device may have taken the same id meanwhile. Raises
    ``InvalidArgument`` if no such device is known.
    """
    devices = await transaction.get(DEVICES, user_id) or {}
    if device_id not in devices or devices[device_id].ed25519 != key:
        raise InvalidArgument("this user has no such device with this key, as far as is known")
    if devices[device_id].trust != trust:
        by_key = await transaction.get(LOCAL_TRUST, user_id) or {}
        transaction.put(LOCAL_TRUST, user_id, {**by_key, devices[device_id].ed25519: trust})
        transaction.put(
            DEVICES, user_id, {**devices, device_id: msgspec.structs.replace(devices[device_id], trust=trust)}
        )
        await note_new_recipients(transaction)


async def note_device_verified(
    transaction: Transaction, user_id: UserId, device_id: DeviceId, ed25519: Ed25519Key
) -> None:
    """Note that the device with this key is verified. Sign it if it belongs to this user and the private key is here.

    Raises ``InvalidArgument`` if no such device is known.
    """
    await set_trust(transaction, user_id, device_id, ed25519, LocalTrust.VERIFIED)
    own = await own_device(transaction)
    seed = await private_seed(transaction, SigningKeyName.SELF_SIGNING)
    if user_id == own.user_id and seed is not None:
        devices = await transaction.get(DEVICES, user_id) or {}
        signed = signed_by(without_signatures(devices[device_id].keys), own.user_id, seed)
        publish_signature(transaction, user_id, device_id, signed)


async def note_identity_verified(transaction: Transaction, user_id: UserId, master_key: Ed25519Key) -> None:
    """Note that the identity with this master key is verified, and sign it.

    This device's key signs our own identity. The user-signing key, if it is here, signs the identity of another user.
    Raises ``InvalidArgument`` if the user's known identity has another key, or if none is known.
    """
    identity = await identity_with(transaction, user_id, master_key)
    own = await own_device(transaction)
    verified = msgspec.structs.replace(identity, pinned=master_key, compared=master_key, verified_once=True)
    if verified != identity:
        await put_identity(transaction, user_id, verified)
    if user_id == own.user_id:
        await sign_own_master_key(transaction, verified)
        await _note_signed_by_own(transaction, own.user_id, verified)
        return
    seed = await private_seed(transaction, SigningKeyName.USER_SIGNING)
    if seed is not None:
        sign_user(transaction, own, user_id, identity, seed)


async def accept_identity(transaction: Transaction, user_id: UserId, master_key: Ed25519Key) -> None:
    """Accept a user's identity without a comparison: it is pinned, and an earlier verification is withdrawn.

    Raises ``InvalidArgument`` if the user's known identity has another key, or if none is known.
    """
    identity = await identity_with(transaction, user_id, master_key)
    accepted = msgspec.structs.replace(identity, pinned=master_key, compared=None, verified_once=False)
    if accepted != identity:
        await put_identity(transaction, user_id, accepted)


async def identity_with(transaction: Transaction, user_id: UserId, master_key: Ed25519Key) -> Identity:
    """Return a user's identity. Raises ``InvalidArgument`` if its key is not the one that a person was shown."""
    identity = await identity_of(transaction, user_id)
    if identity is None or identity.master_key != master_key:
        raise InvalidArgument("this user has no identity with this key, as far as is known")
    return identity


async def fitting_seeds(reading: Transaction | View) -> SigningSeeds:
    """Return the private keys that are here and belong to the identity that this device's user has."""
    identity = await own_identity(reading)
    private = await reading.get(PRIVATE_IDENTITY, None)
    if identity is None or private is None:
        return SigningSeeds()
    seeds = {name.value: seed for name in SigningKeyName if _fits(seed := private.seeds.seed(name), identity, name)}
    return SigningSeeds(**seeds)


async def private_seed(reading: Transaction | View, name: SigningKeyName) -> bytes | None:
    """Return a private key that is here and belongs to the identity that this device's user has."""
    return (await fitting_seeds(reading)).seed(name)


async def keep_private_seed(transaction: Transaction, name: SigningKeyName, seed: bytes) -> bool:
    """Keep a private key of this device's user if it belongs to the identity; return whether it does (M15.18).

    The private master key also verifies the identity, since its holder acts for the user.
    """
    identity = await own_identity(transaction)
    if identity is None or not _fits(seed, identity, name):
        return False
    private = await transaction.get(PRIVATE_IDENTITY, None) or PrivateIdentity()
    if private.seeds.seed(name) != seed:
        kept = msgspec.structs.replace(private.seeds, **{name.value: seed})
        transaction.put(PRIVATE_IDENTITY, None, msgspec.structs.replace(private, seeds=kept))
    if name is SigningKeyName.MASTER and identity.compared != identity.master_key:
        own_user = (await own_device(transaction)).user_id
        key = identity.master_key
        verified = msgspec.structs.replace(identity, pinned=key, compared=key, verified_once=True)
        await put_identity(transaction, own_user, verified)
        await _note_signed_by_own(transaction, own_user, verified)
    return True


# M15.14
async def sign_own_master_key(transaction: Transaction, identity: Identity) -> None:
    """Sign the master key of this device's user with this device's key, unless the signature is known already.

    This device's key also signs one-time keys and backups. So a master key with further fields is not signed: the
    homeserver may have added a field that makes it look like one of these.
    """
    own = await own_device(transaction)
    key_id, key = f"ed25519:{own.device_id}", KnownDevice(own.keys).ed25519
    master = without_signatures(identity.master)
    if not is_signed(identity.master, own.user_id, key_id, key) and master.keys() == SIGNING_KEY_FIELDS:
        signature = (await own_account(transaction)).sign(signable(master))
        signed = with_signature(master, own.user_id, key_id, signature)
        publish_signature(transaction, own.user_id, identity.master_key, signed)


def sign_own_device(transaction: Transaction, own: OwnDevice, seed: bytes) -> None:
    """Sign this device with the self-signing key."""
    signed = signed_by(without_signatures(own.keys), own.user_id, seed)
    publish_signature(transaction, own.user_id, own.device_id, signed)


def sign_user(transaction: Transaction, own: OwnDevice, user_id: UserId, identity: Identity, seed: bytes) -> None:
    """Sign another user's master key with the user-signing key, unless the signature is known already."""
    key = public_key(seed)
    if not is_signed(identity.master, own.user_id, f"ed25519:{key}", key):
        signed = signed_by(without_signatures(identity.master), own.user_id, seed)
        publish_signature(transaction, user_id, identity.master_key, signed)


# M15.15
async def sign_verified(transaction: Transaction, name: SigningKeyName, seed: bytes) -> None:
    """Sign everything that was verified here before the private key was here, unless the signature is known already.

    The self-signing key signs this user's devices. The user-signing key signs other users.
    """
    own = await own_device(transaction)
    if name is SigningKeyName.SELF_SIGNING:
        for device in (await transaction.get(DEVICES, own.user_id) or {}).values():
            if device.trust is LocalTrust.VERIFIED and device.signed_by != public_key(seed):
                signed = signed_by(without_signatures(device.keys), own.user_id, seed)
                publish_signature(transaction, own.user_id, device.device_id, signed)
    if name is SigningKeyName.USER_SIGNING:
        for user_id in await transaction.keys(IDENTITY):
            other = await identity_of(transaction, user_id)
            if user_id != own.user_id and other is not None and other.compared == other.master_key:
                sign_user(transaction, own, user_id, other, seed)


def publish_signature(transaction: Transaction, user_id: UserId, name: str, signed: JsonObject) -> None:
    """Mark a signature for upload (M15.16)."""
    transaction.put(UNPUBLISHED_SIGNATURE, new_id(transaction), UnpublishedSignature(user_id, name, signed))


async def _note_signed_by_own(transaction: Transaction, own_user: UserId, own: Identity) -> None:
    """Note the users that our user-signing key has signed as verified once, since its signatures count from now on."""
    for user_id in await transaction.keys(IDENTITY):
        identity = await transaction.get(IDENTITY, user_id)
        assert identity is not None  # listed above
        if not identity.verified_once and is_verified(user_id, identity, own_user, own):
            _put_with_trust(transaction, user_id, msgspec.structs.replace(identity, verified_once=True))


# M15.7
def _put_with_trust(transaction: Transaction, user_id: UserId, identity: Identity) -> None:
    transaction.put(IDENTITY, user_id, identity)
    transaction.put(IDENTITY_TRUST, user_id, identity.trust)


def _fits(seed: bytes | None, identity: Identity, name: SigningKeyName) -> bool:
    return isinstance(seed, bytes) and len(seed) == 32 and public_key(seed) == identity.key(name)


def _is_signing_key(user_id: UserId, name: SigningKeyName, signing_key: JsonObject) -> bool:
    usage, keys = signing_key.get("usage"), signing_key.get("keys")
    if not is_storable(signing_key) or signing_key.get("user_id") != user_id:
        return False
    if not isinstance(usage, list) or name.value not in usage or not isinstance(keys, dict) or len(keys) != 1:
        return False
    ((key_id, key),) = keys.items()
    return isinstance(key, str) and key_id == f"ed25519:{key}" and _is_public_key(key)


def _is_public_key(key: str) -> bool:
    try:
        decoded = unpadded(key)
    except ValueError:
        return False
    return len(decoded) == 32 and to_unpadded(decoded) == key
