"""The stand-in held to the exchanges recorded with 0.33.0."""

import copy
import dataclasses

import aiohttp
import pytest
from integration.standin_replay import NEW, OPTIONS, Pace, Replay, compare, compare_all, load, standin_server

from worker.standin.faults import Fault, FaultKind

NEWER = dataclasses.replace(OPTIONS, version=NEW)
WITH_A_SLOW_START = dataclasses.replace(NEWER, faults=(Fault(kind=FaultKind.SLOW_FIRST_NODE, seconds=1.0, times=1),))
"""The first prompt still runs when the client has sent others."""
WITH_ASSETS = dataclasses.replace(NEWER, assets=True)

BEFORE = {
    "save-text-output": "text-output",
    "intermediate-output-then-cached": "image-compare-output",
    "node-error": "image-compare-output",
}
"""Which exchange must have gone before, for what it left in the cache."""


@pytest.mark.parametrize(
    "name",
    [
        "success-model-free",
        "success-text-to-image-with-preview",
        "text-output",
        "save-text-output",
        "image-compare-output",
        "intermediate-output-then-cached",
        "node-error",
        "node-out-of-memory",
        "node-replacement",
    ],
)
async def test_a_recorded_exchange_of_the_newer_age_is_repeated(name: str) -> None:
    async with standin_server(NEWER) as (server, standin):
        if name in BEFORE:
            await compare(BEFORE[name], server, standin, age=NEW)
        await compare(name, server, standin, age=NEW)


@pytest.mark.parametrize("name", ["interrupt-running", "cancel-running-by-api-jobs", "cancel-pending-by-api-jobs"])
async def test_what_is_stopped_in_the_middle_of_a_run_ends_as_recorded(name: str) -> None:
    pace = Pace()
    with pace.of_all_nodes():
        async with standin_server(NEWER) as (server, standin):
            await compare(name, server, standin, age=NEW, pace=pace)


@pytest.mark.parametrize("name", ["assets-success-model-free", "assets-save-text-output"])
async def test_files_have_ids_where_a_server_keeps_account_of_them(name: str) -> None:
    async with standin_server(WITH_ASSETS) as (server, standin):
        await compare(name, server, standin, age=NEW)


@pytest.mark.parametrize(("name", "options"), [("http-routes", NEWER), ("assets-http-routes", WITH_ASSETS)])
async def test_the_other_routes_of_the_newer_age_answer_as_recorded(name: str, options: object) -> None:
    """What they tell of jobs and files is of the recorded server; of those the keys are compared."""
    assert isinstance(options, type(NEWER))
    rows = load(name, NEW)
    async with standin_server(options) as (server, standin), aiohttp.ClientSession() as session:
        for color in range(2):
            body = {"prompt": saved_picture(color), "client_id": "x"}
            async with session.post(server.make_url("/prompt"), json=body) as response:
                assert response.status == 200
        await standin.queue.idle.wait()
        replay = Replay(server, standin, session)
        await replay.run(rows)
    requests = [row["data"]["path"] for row in rows if row["kind"] == "http_request"]
    pairs = []
    for path, (recorded, received) in zip(requests, replay.answers, strict=True):
        if path.endswith("limit=2"):
            assert keys_of(received["body"]["jobs"][0]) == keys_of(recorded["body"]["jobs"][0])
            assert set(received["body"]["pagination"]) == set(recorded["body"]["pagination"])
        elif path == "/api/assets" and recorded["status"] == 200:
            assert keys_of(received["body"]["assets"][0]) <= keys_of(recorded["body"]["assets"][1]) | {"mime_type"}
        elif path == "/internal/files/output":
            assert isinstance(received["body"], list)
        else:
            pairs.append((path, recorded, received))
    kept = [row for row in rows if row["kind"] == "http_request" and row["data"]["path"] in {one[0] for one in pairs}]
    compare_all(kept, {}, [(recorded, received) for _, recorded, received in pairs])


def saved_picture(color: int) -> dict[str, object]:
    picture = {"width": 64, "height": 64, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": picture},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "cap/x"}},
    }


def keys_of(one: dict[str, object]) -> set[str]:
    return {key for key in one if not key.startswith("preview_output")}


async def test_prompts_are_refused_as_recorded_and_a_changed_answer_is_noticed() -> None:
    rows = load("refused-prompts", NEW)
    async with standin_server(WITH_A_SLOW_START) as (server, standin), aiohttp.ClientSession() as session:
        replay = Replay(server, standin, session)
        await replay.run(rows)
    compare_all(rows, {}, replay.answers)
    for index in range(len(replay.answers)):
        answers = copy.deepcopy(replay.answers)
        answers[index][0]["status"] += 1
        with pytest.raises(AssertionError):
            compare_all(rows, {}, answers)
