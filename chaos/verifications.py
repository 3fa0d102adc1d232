"""The verifications between the phone and another device, as each of the two showed them last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, TypeAlias

from chaos.owner import Shown
from unwedged.machine import verification
from unwedged.machine.records import Phase

Last: TypeAlias = "dict[str, Shown | None]"
"""By transaction id: what a device showed last, or ``None`` once it no longer shows a verification that was over."""

IMPOSSIBLE: Final = frozenset(
    {verification.MISMATCHED_SAS, verification.MISMATCHED_COMMITMENT, verification.INVALID_MESSAGE}
)
"""The reasons for which no verification between two correct devices is cancelled."""


class Verifications:
    """What the two devices show."""

    def __init__(self) -> None:
        self._phone: Last = {}
        self._other: Last = {}

    def phone_shows(self, shown: Sequence[Shown]) -> None:
        """Note what the phone shows."""
        _note(self._phone, shown)

    def other_shows(self, shown: Sequence[Shown]) -> None:
        """Note what the other device shows."""
        _note(self._other, shown)

    @property
    def on_phone(self) -> list[Shown]:
        """What the owner sees on the phone."""
        return [shown for shown in self._phone.values() if shown is not None]

    @property
    def on_other(self) -> list[Shown]:
        """What the owner sees on the other device."""
        return [shown for shown in self._other.values() if shown is not None]

    def __len__(self) -> int:
        return len(self._phone.keys() | self._other.keys())

    @property
    def under_way(self) -> bool:
        """Whether a verification is not over on at least one of the two devices."""
        return any(shown is not None and not shown.is_over for ends in self._ends.values() for shown in ends)

    @property
    def hangs(self) -> bool:
        """Whether a verification that both devices know is not over: messages end it, without any time passing."""
        return any(
            None not in ends and not all(shown is not None and shown.is_over for shown in ends)
            for ends in self._ends.values()
        )

    @property
    def trusted(self) -> bool:
        """Whether each device has verified the other, so that either may request room keys from the other."""
        return all(any(shown.trusts for shown in end) for end in (self.on_phone, self.on_other))

    @property
    def other_trusts(self) -> bool:
        """Whether the other device regards the phone as verified."""
        return any(shown.trusts for shown in self.on_other)

    @property
    def finished(self) -> int:
        """The number of verifications that succeeded on both devices."""
        return sum(
            all(shown is not None and shown.phase is Phase.DONE for shown in ends) for ends in self._ends.values()
        )

    @property
    def cancelled(self) -> Counter[str]:
        """The number of cancelled verifications, by the reason that the phone showed, or else the other device."""
        reasons = (
            next((shown.cancelled for shown in ends if shown is not None and shown.cancelled is not None), None)
            for ends in self._ends.values()
        )
        return Counter(reason for reason in reasons if reason is not None)

    def losses(self) -> Iterator[str]:
        """Describe what is wrong with the verifications that should have ended by now."""
        for name, ends in self._ends.items():
            said = " and ".join("not there" if shown is None else shown.phase.value for shown in ends)
            if any(shown is not None and not shown.is_over for shown in ends):
                yield f"the verification {name} never ends: it is {said}"
            for shown in ends:
                if shown is not None and shown.phase is Phase.DONE and not shown.trusts:
                    yield f"the verification {name} has ended well, and the other device is not verified: it is {said}"
                if shown is not None and shown.phase is Phase.CANCELLED and shown.cancelled in {None, *IMPOSSIBLE}:
                    yield f"the verification {name} was cancelled for {shown.cancelled!r}: it is {said}"

    @property
    def _ends(self) -> Mapping[str, tuple[Shown | None, Shown | None]]:
        return {name: (self._phone.get(name), self._other.get(name)) for name in self._phone | self._other}


def _note(last: Last, shown: Sequence[Shown]) -> None:
    """Record what a device shows. What is over stays over: another process of the device may show an older state."""
    now = {each.transaction_id: each for each in shown}
    for name, before in last.items():
        if before is None or not before.is_over:
            last[name] = now.get(name)
    for name, each in now.items():
        if name not in last or each.is_over:
            last[name] = each
