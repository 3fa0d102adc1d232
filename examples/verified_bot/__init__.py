"""A person verifies a bot of two processes, and a new device is restored: ``python -m examples.verified_bot``."""
