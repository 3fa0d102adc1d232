"""The command ``unwedged``: tools for people who run programs that share a store.

Each tool is a module of its own. What works without any extra, works with the standard library alone; a tool that needs
an extra imports it only when it is called, and names the extra where it is missing.
"""
