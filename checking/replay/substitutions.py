"""Substitute parts of the reference for a while, to inject a fault. So the product needs no switch for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias
from unittest.mock import patch

from checking.replay.world import World

Substitution: TypeAlias = "tuple[object, str, object]"
"""An object, the name of one of its attributes, and the new value of the attribute."""

Fault: TypeAlias = Callable[[World], Sequence[Substitution]]


@contextmanager
def substituted(substitutions: Iterable[Substitution]) -> Iterator[None]:
    """Make the substitutions, as long as the context lasts."""
    with ExitStack() as stack:
        for owner, name, substitute in substitutions:
            stack.enter_context(patch.object(owner, name, substitute))
        yield
