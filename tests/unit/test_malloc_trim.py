"""Memory goes back to the system while a command runs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from app.settings import ROOT

# Every second block stays in use, so that the heap has nothing free at its end.
PROGRAM = """
import asyncio
from pathlib import Path
from app.runtime import malloc_trim

def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

async def command():
    blocks = [bytes(16_000) for _ in range(4_000)]
    kept = blocks[::8] + blocks[-1:]
    blocks.clear()
    before = resident_bytes()
    while resident_bytes() > before - 30_000_000:
        await asyncio.sleep(0.01)
    return len(kept)

malloc_trim.EVERY_S = 0.01
print(asyncio.run(malloc_trim.giving_memory_back(command())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has the call")
def test_what_lies_free_between_used_blocks_is_given_back() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["501"]
