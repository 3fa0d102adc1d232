"""Faults in real processes, and what ``checking.explain`` finds in their traces.

A fault is one ``TracedFault`` (``fault.py``): its name in the track record; a function that starts real processes,
with the fault or without, drives them through a scene, and returns their traces; and what the table says of it. Each
module of faults has a sequence of them, and ``faults.py`` puts these together. A process is a program of a module of
its own, which takes commands and gives answers, one JSON line each (``processes.py``). ``store_faults.py`` and
``store_process.py`` are an example. ``table.py`` has each fault explained, leaves out one optional field after the
other, and writes ``spec/trace-faults.md``.

To add a fault: declare it, and run ``python -m checking.traced_faults NAME``, which says what is found of it, and
whether the same scene without the fault is accepted. ``python -m checking.traced_faults`` writes the table anew.
"""
