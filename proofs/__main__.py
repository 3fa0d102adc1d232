"""Everything that is proved, but for what is compared by tests. What is not proved is named, and the exit code is 1."""

import subprocess
import sys

from proofs import agreement, contracts, correspondence, induction
from proofs.report import run

# TLC takes as long over the invariant as all the rest together: beside it, both cores have something to do.
with subprocess.Popen([sys.executable, "-m", "proofs.specification"]) as specification:
    code = run(induction.prove, correspondence.prove, contracts.prove, agreement.prove)
sys.exit(code or specification.returncode)
