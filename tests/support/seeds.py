"""Seeds of tests that draw at random: another one each time, and one that can be named."""

from __future__ import annotations

import os
import random


def drawn_seed() -> int:
    """OPERATOR_SEED where it is set. Printed, so that a test that fails shows it."""
    seed = int(os.environ.get("OPERATOR_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"OPERATOR_SEED={seed}")
    return seed
