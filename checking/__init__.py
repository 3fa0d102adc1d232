"""Check the models, and check the reference against them: ``python -m checking`` in a clone of the project.

``tlc`` runs the model checker. ``models`` says what it must find in each model. ``replay`` and ``machine_replay`` let
the store and the machine take the transitions that it found. The installed package does not import this one.
"""
