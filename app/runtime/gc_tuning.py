"""The garbage collector's share of a process that lives long."""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 2000
"""Number of new containers after which the youngest generation is collected; at Python's own 700 a server collects
all the time."""


def spare_what_lives_long() -> None:
    """Exclude all objects that exist now from garbage collection, and collect the others less often.

    Call this at the end of the start. With the hundreds of thousands of objects of SQLAlchemy, aiohttp and arq, a full
    collection took a quarter of a second on a busy machine, and any allocation could trigger it.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 50)
