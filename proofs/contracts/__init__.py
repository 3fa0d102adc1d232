"""Show that the functions of `unwedged.protocol` keep the contracts in their docstrings on all paths.

Subject: the Python code as it runs. Method: CrossHair, which follows each path with symbolic arguments and asks z3. If
a line is broken, it finds arguments that violate the contract.
"""
