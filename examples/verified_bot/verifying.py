"""A device that verifies another: the bot's processes are one of the two, the terminal is the other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from io import StringIO
from typing import Final

import segno

from examples.encrypted_bot.client import Client
from unwedged.machine import Method, Phase, Verification, WrongPhase

METHODS: Final = (Method.SAS, Method.SHOW_QR_CODE)
"""What a terminal can do: it has no camera."""


async def verifications(client: Client) -> AsyncIterator[Verification]:
    """Go on with each verification by itself, and yield what a person has to see.

    That is a QR code for the other device to scan, emoji to compare, that the code was scanned, or the end.

    Each process of a device hears of each step, whichever of them took it, and may take the next one.
    """
    machine = client.machine.verifications
    seen = set()
    async with machine.stream() as changes:
        while True:
            for flow in await machine.get_all():
                if (flow.flow_id, flow.phase) in seen:
                    continue
                seen.add((flow.flow_id, flow.phase))
                with suppress(WrongPhase):  # Another process was faster.
                    if flow.phase is Phase.REQUESTED and not flow.requested_by_us:
                        await machine.accept(flow.flow_id, methods=METHODS)
                    elif flow.phase is Phase.READY and flow.requested_by_us:
                        await machine.start_sas(flow.flow_id)
                await client.send_all()
                code = flow.phase is Phase.READY and Method.SHOW_QR_CODE in flow.methods
                if code or flow.phase in (Phase.KEYS_EXCHANGED, Phase.SCANNED, Phase.DONE, Phase.CANCELLED):
                    yield flow
            await anext(changes)


def emoji(flow: Verification) -> str:
    return "  ".join(f"{each.symbol} {each.description}" for each in flow.emoji)


def drawn(code: bytes) -> str:
    """Draw what a QR code holds, for a terminal."""
    drawing = StringIO()
    segno.make(code, mode="byte", micro=False).terminal(out=drawing, compact=True)
    return drawing.getvalue()
