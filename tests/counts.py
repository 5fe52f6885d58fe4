"""How many random cases tests draw: a quarter of them, or all with ``TAUT_TEST_CASES=all``.

Every property is tested either way, on every operator, method and kind of network; what differs
is the number of random networks, boxes and seeds.
"""

from __future__ import annotations

import os

SHARES = {"quarter": 4, "all": 1}
CHOSEN = os.environ.get("TAUT_TEST_CASES", "quarter")
if CHOSEN not in SHARES:
    raise ValueError(f"TAUT_TEST_CASES is {CHOSEN!r}; choose one of {', '.join(SHARES)}")


def cases(count: int) -> int:
    """Return how many of ``count`` cases to draw, one at least."""
    return -(-count // SHARES[CHOSEN])
