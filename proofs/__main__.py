"""Everything that is proved, but for what is compared by tests. What is not proved is named, and the exit code is 1."""

import sys

from proofs import agreement, contracts, correspondence, induction, specification
from proofs.report import run

sys.exit(run(induction.prove, correspondence.prove, specification.inductive, contracts.prove, agreement.prove))
