"""Traces: what the processes of a store did, step by step, in the format of ``spec/trace.md``, without secrets.

A program that opens a store or a machine may give it a ``Tracer``. Each step is then handed to it as one ``Line``,
after the step has taken place. ``NdjsonTracer`` writes lines to a file that several processes may share;
``LoggingTracer`` and ``OpenTelemetryTracer`` pass them on to what a program has already.
"""

from unwedged.trace.adapters import LoggingTracer, OpenTelemetryTracer
from unwedged.trace.lines import FORMAT, MOST_LISTED, Field, Line, OperationTrace, Remarks, Trace, Tracer
from unwedged.trace.ndjson import NdjsonTracer

__all__ = [
    "FORMAT",
    "MOST_LISTED",
    "Field",
    "Line",
    "LoggingTracer",
    "NdjsonTracer",
    "OpenTelemetryTracer",
    "OperationTrace",
    "Remarks",
    "Trace",
    "Tracer",
]
