"""The stand-in of each age held to every graph whose right answer is known."""

import asyncio
import json
import uuid
from typing import Any, Final

import aiohttp
import pytest
from integration.known_cases import AGES, DATA, TWICE_TOLD, UNPLAYABLE, cases_of, fill

from harness import StandinServer

PATIENCE_S: Final = 60.0


class Direct:
    """A stand-in, asked as ComfyUI was."""

    def __init__(self, standin: StandinServer, session: aiohttp.ClientSession) -> None:
        self._standin = standin
        self._session = session

    async def run(self, graph: dict[str, Any]) -> tuple[str, list[str], list[str]]:
        """Send a graph; return how it ended, what was shown, and which nodes were left out."""
        body = {"prompt": graph, "prompt_id": str(uuid.uuid4()), "client_id": "direct"}
        async with self._session.post(f"{self._standin.url}/prompt", json=body) as response:
            if response.status != 200:
                return "refused", [], []
            errors = sorted((await response.json())["node_errors"])
        async with asyncio.timeout(PATIENCE_S):
            while not (self._standin.state.executor.dead or self._standin.state.queue.idle.is_set()):
                await asyncio.sleep(0.005)
        if self._standin.state.executor.dead:
            return "dead", [], errors
        entry = self._standin.state.queue.history[body["prompt_id"]]
        shown = [
            f"{node}.{key}"
            for node, ui in entry["outputs"].items()
            for key, members in ui.items()
            for _ in members
            if key not in TWICE_TOLD
        ]
        return entry["status"]["status_str"], sorted(shown), errors


@pytest.mark.parametrize("age", AGES)
async def test_the_stand_in_of_each_age_does_with_every_graph_what_comfyui_did(age: str, start_standin: Any) -> None:
    differ, standin = {}, None
    for case in cases_of(age):
        if standin is None or standin.state.executor.dead:
            standin = await start_standin(version=age, checkpoints=("tiny-random.safetensors",))
            fill(standin)
        async with aiohttp.ClientSession() as session:
            direct = Direct(standin, session)
            if case.first is not None:
                await direct.run(json.loads(json.dumps(case.first)))
            end, shown, errors = await direct.run(case.overridden())
        expected = case.end, case.outputs, sorted(case.truth.get("partial") or [])
        if (end, shown, errors) != expected:
            differ[case.name] = (end, shown, errors), expected
    assert differ == {}


def test_every_case_of_the_folder_is_played_or_has_its_reason() -> None:
    names = {json.loads(path.read_text())["name"] for path in (DATA / "cases").glob("graphs*/*.json")}
    played = {case.name for age in AGES for case in cases_of(age)}
    assert names == played | set(UNPLAYABLE)
