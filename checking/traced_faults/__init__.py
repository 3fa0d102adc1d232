"""Inject the bugs of the track record into real processes, and record what ``checking.explain`` finds in their traces.

Each bug is a ``TracedFault`` (``fault.py``). It has a *scenario*: a function that starts real processes with the bug or
without it, makes them do what the bug needs to take effect, and returns their traces. The modules ``store_faults``,
``device_faults`` and ``exchange_faults`` define the bugs; ``faults`` lists all of them.

A process runs one module, ``store_process`` or ``machine_process``. It reads commands and writes answers, each as one
line of JSON (``processes``). ``table`` explains the traces of each bug, explains them again without each optional
field and step, and writes ``spec/trace-faults.md``.

To add a bug, define it, and run ``python -m checking.traced_faults NAME``. This prints the explanation of its traces
with the bug and without it. ``python -m checking.traced_faults`` writes the table again.
"""
