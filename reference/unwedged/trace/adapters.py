"""Tracers that pass lines to Python's ``logging`` or to OpenTelemetry."""

from __future__ import annotations

import json
import logging
from typing import Protocol

from unwedged.trace.lines import Field, Line


class LoggingTracer:
    """Passes each line on to a logger, as JSON."""

    def __init__(self, logger: logging.Logger, level: int = logging.DEBUG) -> None:
        self._logger = logger
        self._level = level

    def write(self, line: Line) -> None:
        """Log one line, unless nobody listens at this level."""
        if self._logger.isEnabledFor(self._level):
            self._logger.log(self._level, "%s", json.dumps(line, separators=(",", ":")))


class Span(Protocol):
    """The part of OpenTelemetry's ``Span`` that is used."""

    def end(self) -> None:
        """End the span."""


class SpanTracer(Protocol):
    """The part of OpenTelemetry's ``Tracer`` that is used."""

    def start_span(self, name: str, *, attributes: dict[str, Field]) -> Span:
        """Start a span."""


class OpenTelemetryTracer:
    """Makes each line a span without duration. Its name is ``unwedged.`` and the step; its attributes are the fields.

    It takes a tracer of ``opentelemetry-api``, such as ``opentelemetry.trace.get_tracer("unwedged")``, and imports
    nothing. A span is a child of the application's span that is current.
    """

    def __init__(self, tracer: SpanTracer) -> None:
        self._tracer = tracer

    def write(self, line: Line) -> None:
        """Make one span."""
        attributes = {f"unwedged.{name}": value for name, value in line.items()}
        self._tracer.start_span(f"unwedged.{line['step']}", attributes=attributes).end()
