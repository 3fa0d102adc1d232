"""Find TLC, run it, and read its output."""
