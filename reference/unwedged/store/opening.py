"""The result of ``open``, which works with ``await`` and with ``async with``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, Protocol, TypeVar

from unwedged.store.errors import InvalidArgument


class Closable(Protocol):
    """An object that is closed when its block is left."""

    async def __aenter__(self) -> object: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None: ...


Opened = TypeVar("Opened", bound=Closable)


class Opening(AbstractAsyncContextManager[Opened], Generic[Opened]):
    """Something to open once: by ``await``, or by ``async with``, which also closes it."""

    __slots__ = ("_open", "_opened")

    def __init__(self, open_it: Callable[[], Coroutine[None, None, Opened]]) -> None:
        self._open: Callable[[], Coroutine[None, None, Opened]] | None = open_it
        self._opened: Opened | None = None

    def __await__(self) -> Generator[None, None, Opened]:
        open_it, self._open = self._open, None
        if open_it is None:
            raise InvalidArgument("what open() returned was used before: call it again")
        return open_it().__await__()

    async def __aenter__(self) -> Opened:
        self._opened = opened = await self
        await opened.__aenter__()
        return opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is None:
            raise InvalidArgument("the block of what open() returned was never entered")
        await self._opened.__aexit__(kind, error, trace)
