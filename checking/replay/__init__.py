"""The replay: the reference makes each transition that TLC found, and its state is compared after each step.

The implementation is made to take steps: ``world``, which has the ``processes`` with their ``actors``, a ``gate`` that
every call to a backend stops at, an ``event_loop`` that lets tasks run between two of those calls, the ``database``,
and ``doubles`` of what would not be repeatable; ``steps``, ``process_steps`` and ``operation_steps`` take them.

The models are read: ``model_states`` says what a state is, ``transitions`` which step leads from one to the next.

Then both are compared: ``observation`` is what they are compared in, ``drive`` covers a model's graph and ``trials``
tries what must change nothing, ``live_objects`` what no model speaks of; ``counterexamples`` inject ``faults`` and ask
``properties``, and ``verdicts`` says what follows. ``workers`` share the work.
"""
