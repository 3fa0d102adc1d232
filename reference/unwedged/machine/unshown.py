"""Structures whose values no log, exception or repr may show: they hold secrets, or what people wrote."""

from __future__ import annotations


class Unshown:
    """A base of structures: only their name is shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"
