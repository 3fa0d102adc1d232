"""What is proved of the protocol beyond the bounds of a model checker. See README.md.

Each proof has a folder, whose `proof` module has a function `prove`. What several of them need is beside the folders,
and in `encoding`.
"""
