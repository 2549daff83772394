"""The stand-in held to the exchanges recorded with 0.3.64: what a client did is done again."""

import copy

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from integration.standin_replay import (
    Frame,
    Pace,
    Replay,
    Row,
    as_json,
    compare,
    compare_all,
    kind_of,
    load,
    standin_server,
)

from worker.standin.main import Standin


@pytest.mark.parametrize(
    "name",
    [
        "success-model-free",
        "success-batch-of-three-in-subfolder",
        "success-text-to-image-legacy-previews",
        "cached-rerun",
        "invalid-prompts",
        "partly-invalid-prompt-runs-anyway",
        "node-exception",
        "node-out-of-memory",
        "delete-while-queued",
        "two-prompts-queued-at-once",
        "two-clients",
        "own-prompt-id-and-duplicate",
        "websocket-image-preview-image-and-progress-text",
        "execution-blocked-error-then-success",
    ],
)
async def test_a_recorded_exchange_is_repeated(name: str) -> None:
    async with standin_server() as (server, standin):
        await compare(name, server, standin)


async def test_a_second_exchange_finds_the_models_results_of_the_first() -> None:
    async with standin_server() as (server, standin):
        await compare("success-text-to-image-legacy-previews", server, standin)
        await compare_numbered_file("success-text-to-image-preview-metadata", server, standin)


async def compare_numbered_file(name: str, server: TestServer, standin: Standin) -> None:
    """Compare a capture, and that its file has the recorded number."""
    await compare(name, server, standin)
    assert standin.log.executions[-1].files == ["t2i_00002_.png"]


@pytest.mark.parametrize(
    "name", ["interrupt-running", "no-client-id-leaks-to-everyone", "overlapping-connections-same-client-id-go-deaf"]
)
async def test_what_is_done_in_the_middle_of_a_run_is_repeated(name: str) -> None:
    pace = Pace()
    with pace.of_all_nodes():
        async with standin_server() as (server, standin):
            await compare(name, server, standin, pace=pace)


async def test_a_client_that_reconnects_gets_the_rest() -> None:
    """The recorded client saw steps 1 to 4, then 8 to 15; how many ours misses is a matter of time."""
    rows, pace = load("reconnect-same-client-id-mid-run"), Pace()
    with pace.of_all_nodes():
        async with standin_server() as (server, standin), aiohttp.ClientSession() as session:
            replay = Replay(server, standin, session, pace)
            received = await replay.run(rows)
    first, second = received["first"], received["second"]
    closed = index_of_step(first, 4) + 1
    resumed = index_of_step(second, 8) - 1
    assert {kind_of(frame) for frame in [*first[closed:], *second[2:resumed]]} <= {"progress", "progress_state"}
    received["first"], received["second"] = first[:closed], second[:2] + second[resumed:]
    compare_all(rows, received, replay.answers)


def index_of_step(frames: list[Frame], value: int) -> int:
    """Return where a step of a node is told; its `progress_state` comes one frame before."""
    return next(
        index for index, frame in enumerate(frames)
        if isinstance(frame, dict) and frame["type"] == "progress" and frame["data"]["value"] == value
    )  # fmt: skip


async def test_a_dead_execution_thread_leaves_a_server_that_looks_alive() -> None:
    async with standin_server() as (server, standin):
        await compare("execution-thread-dead-server-looks-alive", server, standin, waits=False)
        assert standin.executor.dead


async def test_the_other_routes_answer_as_recorded() -> None:
    rows = load("http-routes")
    history = next(row["data"]["body"] for row in rows if row["kind"] == "http_response" and has_history(row))
    ((prompt_id, entry),) = history.items()
    body = {"prompt": entry["prompt"][2], "prompt_id": prompt_id, **entry["prompt"][3]}
    async with standin_server() as (server, standin), aiohttp.ClientSession() as session:
        async with session.post(server.make_url("/prompt"), json=body) as response:
            assert response.status == 200
        await standin.queue.idle.wait()
        replay = Replay(server, standin, session)
        await replay.run(rows)
    compare_all(rows, {}, replay.answers)


def has_history(row: Row) -> bool:
    body = row["data"]["body"]
    return isinstance(body, dict) and any("status" in str(entry) for entry in body.values() if isinstance(entry, dict))


def mutated(rows: list[Row], index: int, change: str) -> list[Row]:
    """Return a capture in which one frame is not as it was recorded."""
    changed = copy.deepcopy(rows)
    data = as_json(changed[index]["data"])
    key = next(iter(data["data"]))
    match change:
        case "a key is gone":
            del data["data"][key]
        case "a key is new":
            data["data"]["more"] = 1
        case "a value has another type":
            data["data"][key] = 1.5
        case "a frame is gone":
            data["type"] = "status"
        case "a frame comes later":
            changed[index + 1]["data"], data = data, as_json(changed[index + 1]["data"])
    changed[index]["data"] = data
    return changed


CHANGES = ["a key is gone", "a key is new", "a value has another type", "a frame is gone", "a frame comes later"]


@pytest.mark.parametrize("kind", ["execution_start", "progress_state", "executed", "execution_success"])
@pytest.mark.parametrize("change", CHANGES)
async def test_the_comparison_sees_every_change(change: str, kind: str) -> None:
    rows = load("success-model-free")
    async with standin_server() as (server, standin), aiohttp.ClientSession() as session:
        replay = Replay(server, standin, session)
        received = await replay.run(rows)
    compare_all(rows, received, replay.answers)
    index = next(i for i, row in enumerate(rows) if row["kind"] == "ws_text" and as_json(row["data"])["type"] == kind)
    with pytest.raises((AssertionError, KeyError)):
        compare_all(mutated(rows, index, change), received, replay.answers)
