"""The replay: the reference makes each transition that TLC found, and its state is compared after each step."""
