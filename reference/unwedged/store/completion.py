"""Work that always runs to its end: a cancelled caller gets the cancellation once the work has ended.

A caller that got the cancellation earlier would believe that nothing happened, although the work may still be done
(P12.2, P12.4).
"""

from __future__ import annotations

import asyncio
import logging
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context
from typing import TypeVar

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


class Uncancellable(asyncio.Future[Result]):
    """A future of something that happens in any case: a task that waits for it is cancelled only once it is done."""

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 (the signature is asyncio's)
        """Refuse. A task that is cancelled meanwhile remembers this, and raises the error when this future is done."""
        return False


class SettledByLoop(Uncancellable[Result]):
    """An uncancellable future that only a callback of the event loop settles, and no task.

    A task that waits for it goes on in that callback.
    Any other future has the loop call the task in its next turn, which takes as long as a statement of SQLite.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[tuple[Callable[[SettledByLoop[Result]], object], Context | None]] = []

    def add_done_callback(
        self, callback: Callable[[SettledByLoop[Result]], object], /, *, context: Context | None = None
    ) -> None:
        """Have ``callback`` called by whatever settles this future."""
        if self.done():
            super().add_done_callback(callback, context=context)
        else:
            self._waiting.append((callback, context))

    def set_result(self, result: Result, /) -> None:
        """Settle it, and let what waits for it go on."""
        super().set_result(result)
        self._go_on()

    def set_exception(self, exception: type[BaseException] | BaseException, /) -> None:
        """Settle it, and let what waits for it go on."""
        super().set_exception(exception)
        self._go_on()

    def _go_on(self) -> None:
        for callback, context in self._waiting:
            if context is None:
                callback(self)
            else:
                context.run(callback, self)


@types.coroutine
def run_to_completion(work: Coroutine[asyncio.Future[object] | None, None, Result]) -> Generator[object, None, Result]:
    """Run ``work`` to its end even if the caller is cancelled meanwhile. The cancellation is raised only then.

    The work runs in the caller's own task, since another task would cost a tenth of a commit. Whatever the work waits
    for, the task waits for something that can't be cancelled.
    """
    cancelled: asyncio.CancelledError | None = None
    try:
        while True:
            waits_for = work.send(None)
            try:
                if waits_for is None or isinstance(waits_for, Uncancellable):
                    yield waits_for
                else:
                    yield from _end_of(waits_for)
            except asyncio.CancelledError as error:
                cancelled = error
            except Exception:  # noqa: BLE001, S110
                pass  # The result of the future: the work gets it from there.
    except StopIteration as end:
        if cancelled is None:
            result: Result = end.value
            return result
    except Exception as failure:
        if cancelled is None:
            raise
        logger.debug("what a cancelled caller had begun failed: %r", failure)
    finally:
        work.close()
    raise cancelled


def _end_of(awaited: asyncio.Future[object]) -> Generator[object, None, None]:
    """Wait until ``awaited`` is done, with a result or an exception."""
    ended: Uncancellable[None] = Uncancellable()
    awaited.add_done_callback(lambda _: ended.set_result(None))
    yield from ended.__await__()
