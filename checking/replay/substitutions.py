"""What a fault is: parts of the reference that are substituted, so that the product needs no switch for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias
from unittest.mock import patch

from checking.replay.world import World

Substitution: TypeAlias = "tuple[object, str, object]"
"""An object, the name of one of its attributes, and what to put there."""

Fault: TypeAlias = Callable[[World], Sequence[Substitution]]


@contextmanager
def substituted(substitutions: Iterable[Substitution]) -> Iterator[None]:
    """Make substitutions for as long as this lasts."""
    with ExitStack() as stack:
        for owner, name, substitute in substitutions:
            stack.enter_context(patch.object(owner, name, substitute))
        yield
