"""The functions of `unwedged.protocol` keep the contracts that their docstrings state, on all paths.

Subject: the Python code as it runs.
Method: CrossHair, which follows each path with symbolic arguments, and asks z3. With a line broken, it finds arguments
for which the contract does not hold.
"""
