"""Prove the protocol beyond the bounds of a model checker. See README.md.

Each part has a folder whose `proof` module has a function `prove`. Modules that several parts use are in this folder
and in `encoding`.
"""
