"""The garbage collector's share of a process that lives long."""

from __future__ import annotations

import gc
from typing import Final

YOUNG: Final = 2000
"""Number of new containers after which the youngest generation is collected; at Python's own 700 a server collects
all the time."""


def spare_what_lives_long() -> None:
    """Keep the collector from walking, again and again, through what was loaded and made for the whole life.

    To be called when the process is complete. Of SQLAlchemy's, aiohttp's and arq's hundred thousands of objects a full
    collection took a quarter of a second on a busy machine, in the middle of whatever allocated the last straw.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 10, 50)
