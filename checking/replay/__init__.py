"""Replay a model on the reference store: take each transition that TLC found, and compare the state after each step.

Modules that let the store take steps: ``world`` holds the ``processes`` of a model and their operations, the
``actors``. Every call to a backend stops at a ``gate``; ``event_loop`` runs the tasks between two calls. ``database``
reads the file. ``doubles`` replace the clock, randomness and threads. ``steps`` takes a step, by ``process_steps`` and
``operation_steps``.

Modules that read models: ``model_states`` reads a state, and ``transitions`` finds the step between two states.

Modules that compare: ``observation`` has the form in which model and store are compared. ``drive`` covers the graph of
a model. ``trials`` tries steps that must change nothing, and ``live_objects`` checks what no model describes.
``counterexamples`` injects ``faults`` and checks ``properties``; ``verdicts`` judges the result. ``workers`` runs the
work in several processes.
"""
