"""One Matrix device that several processes share, without losing a session.

::

    async with OlmMachine.open(
        "device.db", user_id="@bot:example.org", device_id="BOT", passphrase="...", label="bot"
    ) as machine:
        for request in await machine.outgoing_requests():
            response = await http.request(request.method, request.path, json=request.body)
            await machine.mark_sent(request, response.json())

        position = await machine.sync_position()
        response = await http.request("GET", "/_matrix/client/v3/sync", params={"since": position.token})
        await machine.receive_sync_changes(response.json(), position)

        await machine.share_room_key(room_id, members)  # and send what it puts among the outgoing requests
        content = await machine.encrypt_room_event(room_id, "m.room.message", {"msgtype": "m.text", "body": "Hello"})

Every exception that is raised on purpose is a ``MachineError``, or a ``StoreError`` of ``unwedged.store``.
"""

from unwedged.machine.errors import MachineError
from unwedged.machine.inbox import Problem, SyncOutcome, ToDeviceEvent
from unwedged.machine.machine import OlmMachine
from unwedged.machine.records import KnownDevice, LocalTrust
from unwedged.machine.requests import KeysClaim, KeysQuery, KeysUpload, Request, ToDevice
from unwedged.machine.rooms import DecryptedEvent, SenderTrust
from unwedged.machine.sharing import Sharing
from unwedged.machine.sync import SyncPosition

__all__ = [
    "DecryptedEvent",
    "KeysClaim",
    "KeysQuery",
    "KeysUpload",
    "KnownDevice",
    "LocalTrust",
    "MachineError",
    "OlmMachine",
    "Problem",
    "Request",
    "SenderTrust",
    "Sharing",
    "SyncOutcome",
    "SyncPosition",
    "ToDevice",
    "ToDeviceEvent",
]
