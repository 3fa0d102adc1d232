"""Make the keys of devices that exist only at the homeserver, without a machine."""

from __future__ import annotations

from functools import cache

from checking.machine_replay.homeserver import Device, Json
from unwedged.machine.account import ALGORITHMS
from unwedged.machine.identifiers import UserId
from unwedged.machine.ratchets import Account
from unwedged.machine.signing import signable, with_signature


@cache
def account_of(device: Device) -> Account:
    """Return the account of a device. It is the same in each call."""
    del device
    return Account()


@cache
def signed_device_keys(device: Device) -> Json:
    """Return the signed device keys that a device uploads. They are the same in each call."""
    account = account_of(device)
    keys: Json = {
        "user_id": device.user,
        "device_id": device.device,
        "algorithms": list(ALGORITHMS),
        "keys": {f"curve25519:{device.device}": account.curve25519, f"ed25519:{device.device}": account.ed25519},
    }
    return with_signature(keys, UserId(device.user), f"ed25519:{device.device}", account.sign(signable(keys)))
