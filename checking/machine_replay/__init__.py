"""The replay of the models of the Matrix device: real machines make each transition that TLC found.

``drive`` covers a model's graph, and compares after each step. What stands in the place of a model is its
``counterpart``: ``backup``, ``inbox``, ``keys``, ``lists``, ``sessions`` and ``sharing`` for the modules of these
names. It takes the model's steps by calls of the machine, and says what came of them in the model's own terms, read
from the real records and from the ``homeserver``. Its machines are the processes of a ``shared_device``, on one real
store file. What a ``client`` sends and gets waits in the counterpart, as long as the model lets it. A ``peer_device``
reads the room keys that it is sent.

``counterexamples`` inject a model's faults into the machine, and ask its properties. ``counterparts`` says which there
are.
"""
