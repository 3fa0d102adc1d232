"""Run ``python -m checking`` in a clone of the project."""

from checking.command import main

main()
