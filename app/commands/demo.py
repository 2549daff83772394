"""The demo command: starts everything, runs a sample job, and checks that its image exists."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from app.commands.sample_job import SampleJob
from app.commands.stop_signals import asked_to_end
from app.commands.terminal import Terminal, amount
from app.commands.whole_service import whole_service
from app.settings import ROOT

if TYPE_CHECKING:
    from app.settings import Settings

PORT: Final = 8001
"""The port that the README's examples speak to; the demo environment's own, 8002, is that of `make api-demo`."""
LOCAL_SETTINGS: Final = ROOT / "env" / ".env.local"


async def demo(settings: Settings) -> int:
    """Run everything and a sample job, then go on until Ctrl-C."""
    return await _demo(settings, once=False)


async def demo_once(settings: Settings) -> int:
    """Run everything and a sample job, and end; what fails raises, so 0 means that the image is there."""
    return await _demo(settings, once=True)


async def _demo(settings: Settings, *, once: bool) -> int:
    terminal = Terminal()
    if not port_is_chosen():
        settings = settings.model_copy(update={"api_port": PORT})
    async with whole_service(settings, terminal) as service:
        image = await service.unless_one_ends(SampleJob(service, terminal).run())
        terminal.line("")
        terminal.line(f"  image  {image.path}  ({image.width} × {image.height}, {amount(image.size_bytes)})")
        terminal.line(f"  URL    {image.url}")
        terminal.line(f"  page   {service.url}/monitor/")
        terminal.line("")
        if not once:
            # Before it is printed: a reader may be quick.
            asked = asked_to_end()
            terminal.line("Everything goes on running; Ctrl-C stops it.")
            await service.unless_one_ends(asked.wait())
    return 0


def port_is_chosen() -> bool:
    """Whether the person set `API_PORT`, in the environment or in a file of their own."""
    local = LOCAL_SETTINGS.read_text(encoding="utf-8") if LOCAL_SETTINGS.is_file() else ""
    in_file = re.search(r"^\s*(export\s+)?API_PORT\s*=", local, re.MULTILINE | re.IGNORECASE)
    return "API_PORT" in map(str.upper, os.environ) or in_file is not None
