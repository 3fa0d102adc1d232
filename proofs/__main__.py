"""Everything that is proved: `make prove`. What is not proved is named, and the exit code is 1."""

import sys

from proofs import contracts, correspondence, induction, specification
from proofs.report import run

sys.exit(run(induction.prove, correspondence.prove, specification.inductive, contracts.prove))
