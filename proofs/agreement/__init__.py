"""The functions of `unwedged.protocol` do what the specification says, input by input and step by step.

Of what: of each function on a finite domain, and of each action of `tla/CryptoStoreCache.tla` in every state of three
models. By what: by comparison with the graphs that TLC makes of them.
"""
