"""The command ``unwedged``: tools for people who run programs that share a store.

Each tool is a module of its own, and needs no extra.
"""
