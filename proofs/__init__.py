"""What is proved of the protocol beyond the bounds of a model checker. See README.md."""
