"""Checks the models, and the reference against them: ``python -m checking`` in a clone of the project.

``tlc`` runs the model checker, ``models`` says what it must find, and ``replay`` drives the reference along what it
found. Nothing that is installed imports this package.
"""
