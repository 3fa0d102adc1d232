"""The command line and what it is made of: running TLC, reading what it prints, comparing it with what is expected.

Nothing in the other layers imports this package; its dependencies come with the extra ``check``.
"""
