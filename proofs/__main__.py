"""Run all parts of the proof, or some of them. The end of the output names what failed; then the exit code is 1."""

import argparse
import subprocess
import sys
from collections.abc import Mapping

from proofs.agreement import proof as agreement
from proofs.contracts import proof as contracts
from proofs.correspondence import proof as correspondence
from proofs.induction import proof as induction
from proofs.report import Proof, run
from proofs.specification import proof as specification
from proofs.sql import proof as sql

PARTS: Mapping[str, Proof] = {
    "induction": induction.prove,
    "correspondence": correspondence.prove,
    "specification": specification.prove,
    "contracts": contracts.prove,
    "agreement": agreement.prove,
    "sql": sql.prove,
}

# TLC takes minutes over the invariant: beside the other parts, so that both cores have something to do.
BESIDE = "specification"


def main() -> int:
    """Run the named parts, or all parts. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m proofs", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to prove: {', '.join(PARTS)}; all, if none")
    parts = parser.parse_args().parts
    if unknown := sorted(set(parts) - PARTS.keys()):
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if parts:
        return run({name: PARTS[name] for name in parts})
    with subprocess.Popen([sys.executable, "-m", "proofs", BESIDE]) as beside:  # noqa: S603 (our own)
        code = run({name: prove for name, prove in PARTS.items() if name != BESIDE})
    return code or beside.returncode


if __name__ == "__main__":
    sys.exit(main())
