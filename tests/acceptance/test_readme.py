"""The README's examples run as printed, but for the port."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from acceptance.commands import ROOT, eventually, temporary_place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str, containing: str = "localhost:8001") -> list[str]:
    """Return the README's code blocks of a language that talk to the server."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [block for block in found if containing in block]


@pytest.fixture(scope="module")
def port() -> Iterator[str]:
    """Port of a whole service that has run one job."""
    with temporary_place() as place, place.running("up", "--env", "test") as up:
        up.says("Genonaut serves")
        up.says("is connected")
        yield re.search(r"Genonaut serves http://127\.0\.0\.1:(\d+)", up.output).group(1)  # type: ignore[union-attr]


def run(command: list[str], folder: Path) -> str:
    """Run an example in an empty folder; it must succeed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_examples_run_in_the_order_in_which_they_stand(port: str, tmp_path: Path) -> None:
    curl = blocks("bash")
    first_line, *others = curl[0].split("\ncurl http", 1)
    examples = [first_line, *(f"curl http{other}" for other in others), *curl[1:]]
    assert len(examples) == 5
    if shutil.which("curl") is None:
        pytest.skip("the README's curl examples need curl")

    def shell(script: str) -> str:
        return run(["bash", "-ec", script.replace("localhost:8001", f"localhost:{port}")], tmp_path)

    assert '"job_id":1' in shell(examples[0])
    eventually(lambda: '"completed"' in shell(f"curl -s http://localhost:{port}/api/v1/generation-jobs/1"), "job 1")
    shell(examples[1])
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    for example in examples[2:]:
        assert '"code"' not in shell(example).replace('"code":null', "")

    (tmp_path / "picture.png").unlink()
    printed = []
    for number, example in enumerate(blocks("python")):
        script = tmp_path / f"example_{number}.py"
        script.write_text(example.replace("localhost:8001", f"localhost:{port}"), encoding="utf-8")
        printed.append(run([sys.executable, str(script)], tmp_path))
    with_aiohttp, with_websockets = printed
    assert with_aiohttp.splitlines()[-1].startswith("completed")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"/1/1_0\.png", with_websockets)
