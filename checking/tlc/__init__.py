"""TLC: where it is, running it, and reading what it prints."""
