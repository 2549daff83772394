"""Pictures of every page, wide and narrow, light and dark: `make screenshots`.

They are made of a real service at work, while 50 jobs run on two stand-ins, and go to env/data/screenshots.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playwright.async_api import async_playwright

from app.settings import ROOT
from tests.screenshots.scene import Scene, running_scene

if TYPE_CHECKING:
    from playwright.async_api import Browser

JOBS: Final = 50
SIZES: Final = {"wide": (1280, 900), "narrow": (360, 800)}
THEMES: Final = ("light", "dark")
_ARGUMENTS: Final = ["--no-sandbox", "--disable-gpu"]


async def main() -> int:
    """Make the pictures and return the exit code."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        print("There is no Chromium: install the package chromium, or set CHROMIUM to a browser's path.")
        return 1
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "env" / "data" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    async with async_playwright() as playwright, running_scene() as scene:
        browser = await playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        try:
            await _play(scene, browser, folder)
        finally:
            await browser.close()
    print(f"The pictures are in {folder}.")
    return 0


async def _play(scene: Scene, browser: Browser, folder: Path) -> None:
    jobs = [await scene.picture(index) for index in range(JOBS - 3)]
    failed = await scene.broken("ValueError", "the tensor has the wrong shape: expected [1, 4, 64, 64]")
    await scene.broken("ValueError", "the tensor has the wrong shape: expected [1, 4, 32, 32]")
    await scene.broken("out_of_memory", "Allocation on device 0 would exceed allowed memory")
    await scene.cancel(jobs[-2])
    await scene.until(jobs[8], "running", progress=40)
    at_work = {"jobs-at-work": "/monitor/", "gallery-at-work": "/monitor/?view=gallery"}
    await _shoot(scene, browser, folder, at_work | {"backends": "/monitor/backends"})
    running = await _first_running(scene, jobs)
    await _shoot(scene, browser, folder, {"job-at-work": f"/monitor/jobs/{running}"})
    await scene.until(failed, "failed")
    for job in jobs:
        await scene.until(job, "completed", "cancelled")
    pages = {
        "jobs": "/monitor/",
        "gallery": "/monitor/?view=gallery",
        "job": f"/monitor/jobs/{jobs[2]}",
        "output": f"/monitor/jobs/{jobs[2]}/outputs/1",
        "job-failed": f"/monitor/jobs/{failed}",
        "failed": "/monitor/?status=failed",
        "nothing-fits": "/monitor/?q=zebra",
        **{name: f"/monitor/{name}" for name in ("workers", "stats", "schedule", "audit")},
    }
    await _shoot(scene, browser, folder, pages)


async def _first_running(scene: Scene, jobs: list[int]) -> int:
    """Return a job that has come some way and has as much before it."""
    while True:
        for job_id in jobs:
            job = await scene.job(job_id)
            if job["status"] == "running" and 15 <= job["progress"] <= 50:
                return job_id
        await asyncio.sleep(0.1)


async def _shoot(scene: Scene, browser: Browser, folder: Path, pages: dict[str, str]) -> None:
    for theme in THEMES:
        for size, (width, height) in SIZES.items():
            context = await browser.new_context(
                base_url=scene.url,
                viewport={"width": width, "height": height},
                color_scheme=theme,
                device_scale_factor=2 if size == "narrow" else 1,
            )
            page = await context.new_page()
            for name, path in pages.items():
                await page.goto(path)
                await page.wait_for_load_state("load")
                await page.wait_for_timeout(400)
                await page.screenshot(path=folder / f"{name}-{size}-{theme}.png", full_page=size == "narrow")
            await context.close()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
