"""How many examples Hypothesis tries, and that a failure can be repeated.

``ci`` is what runs unless another profile is named. It tries the same examples each time.

``long`` tries others each time, and many more where a test leaves the number to the profile: the walks through the
replay model take more than two hundred thousand steps. Choose it with ``--hypothesis-profile=long --timeout=0
-o faulthandler_timeout=0``, because it takes longer than any test otherwise may.

``prove`` tries the same examples each time, as ``ci`` does, and more of them.

``mutants`` tries those of ``ci``. If one fails, it looks for no simpler one, which would take time.

With any, a failure prints its shrunk example and a line ``@reproduce_failure(...)`` that repeats it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import Phase, settings

from unwedged.store import sealer as module

settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True, database=None)
settings.register_profile(
    "long", deadline=None, print_blob=True, derandomize=False, max_examples=1200, stateful_step_count=200
)
settings.register_profile("prove", settings.get_profile("ci"), max_examples=400)
settings.register_profile("mutants", settings.get_profile("ci"), phases=(Phase.explicit, Phase.generate))
settings.load_profile("ci")


@pytest.fixture(scope="module")
def cheap_passphrases() -> Iterator[None]:
    """Let scrypt cost nothing, for tests that are about passphrases. All others use a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "COST", module.Cost(n=2, r=1, p=1))
        yield
