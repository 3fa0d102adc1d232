"""Replay the models of the Matrix device: real machines take each transition that TLC found.

``drive`` covers the state graph of a model, and compares the state after each step. Each model has a ``counterpart`` in
the module of its name, such as ``backup`` for the module Backup. The counterpart takes the model's steps by calls of
the machine. It observes the result in the terms of the model, from the real records and from the ``homeserver``.

The machines are the processes of a ``shared_device`` on one real store file. A ``client`` sends requests to the
homeserver. Requests and responses wait in the counterpart as long as they wait in the model. A ``peer_device`` receives
room keys.

``counterexamples`` injects a model's faults into the machine, and checks the model's properties. ``counterparts`` lists
all counterparts.
"""
