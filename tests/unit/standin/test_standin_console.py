"""What stands in `/internal/logs`: runs, failures, deaths, and what of them is lost."""

import re
from typing import Any

import pytest
from unit.standin.standin_client import OLD, Client, StartStandin, frames_until, graph_through, image_graph

from worker.standin.faults import Fault, FaultKind, death_of
from worker.standin.tracebacks import Place, pieces


async def log_of(client: Client) -> str:
    """Return the pieces of the log as one text."""
    status, body = await client.get("/internal/logs/raw")
    assert (status, body["size"]) == (200, {"cols": 80, "rows": 24})
    return "".join(entry["m"] for entry in body["entries"])


async def die(client: Client, graph: dict[str, Any]) -> None:
    """Run a prompt that ends the thread; the one behind it waits for ever."""
    await client.submit(graph, client_id="me")
    while not client.standin.executor.dead:
        await client.get("/queue")


@OLD
async def test_a_run_is_told_with_its_time(client: Client) -> None:
    await client.run(image_graph())
    told = await log_of(client)
    assert re.fullmatch(r"Starting server\n\ngot prompt\nPrompt executed in \d+\.\d\d seconds\n", told)


async def test_later_versions_tell_the_level_in_colours(running_standin: StartStandin) -> None:
    async with running_standin(version="0.33.0") as client:
        await client.run(image_graph())
        assert "\x1b[32m[INFO]\x1b[0m got prompt\n" in await log_of(client)


async def test_the_log_as_one_text_has_the_time_before_each_piece(client: Client) -> None:
    _, raw = await client.get("/internal/logs/raw")
    (entry,) = raw["entries"]
    assert (await client.get("/internal/logs"))[1] == f"{entry['t']} - {entry['m']}"
    assert (await client.get("/api/internal/logs/raw"))[0] == 404


@OLD
async def test_the_traceback_of_a_failed_node_is_one_piece_and_the_run_has_an_end(client: Client) -> None:
    await client.run(graph_through("RaiseError", message="boom"))
    _, raw = await client.get("/internal/logs/raw")
    told = [entry["m"] for entry in raw["entries"]]
    assert told[2] == "!!! Exception during processing !!! boom\n"
    assert told[3].startswith("Traceback (most recent call last):\n")
    assert told[3].endswith("RuntimeError: boom\n\n")
    assert told[4].startswith("Prompt executed in")


async def test_of_a_death_by_a_graph_the_thread_is_named(client: Client) -> None:
    graph = image_graph()
    graph["2"]["inputs"]["images"] = {"__value__": ["99", 0]}
    await die(client, graph)
    told = await log_of(client)
    assert "Exception in thread Thread-1 (prompt_worker):\n" in told
    assert told.endswith("comfy_execution.graph.NodeNotFoundError: Node 99 not found\n")
    assert "Prompt executed" not in told


async def test_of_a_death_deep_in_a_node_the_thread_is_not_named_any_more(client: Client) -> None:
    await die(client, graph_through("RaiseError", message="quiet", kind="base_exception"))
    told = await log_of(client)
    assert "Exception in thread" not in told
    assert told.endswith("acceptance_nodes.Quiet: quiet\n")
    assert len(client.standin.console.entries) == 300


@OLD
async def test_of_a_death_by_exit_nothing_is_told(client: Client) -> None:
    await die(client, graph_through("RaiseError", message="bye", kind="system_exit"))
    assert await log_of(client) == "Starting server\n\ngot prompt\n"


@pytest.mark.parametrize("logged", [True, False])
@pytest.mark.parametrize("kind", ["dead_thread", "dead_thread_at_start"])
async def test_a_death_on_demand_is_told_or_not(client: Client, kind: str, logged: bool) -> None:
    await client.post("/standin/faults", {"kind": kind, "logged": logged, "message": "as I say"})
    ws = await client.connect("me")
    await client.submit(image_graph(), client_id="me")
    if kind == "dead_thread_at_start":
        await frames_until(ws, "execution_start")
    await client.get("/queue")
    assert client.standin.executor.dead
    assert (await log_of(client)).count("as I say") == logged
    await ws.close()


@OLD
async def test_a_restart_begins_a_new_log(client: Client) -> None:
    await die(client, graph_through("RaiseError", message="quiet", kind="keyboard_interrupt"))
    await client.standin.restart()
    assert await log_of(client) == "Starting server\n\n"


@pytest.mark.parametrize("version", [(0, 3, 64), (0, 33, 0)])
def test_a_death_on_demand_is_written_in_pieces(version: tuple[int, ...]) -> None:
    death = death_of(Fault(kind=FaultKind.DEAD_THREAD, message="so"))
    assert death.place is Place.NODE
    written = list(pieces(death.place, death.error, version))
    assert written[:3] == ["Exception in thread ", "Thread-1 (prompt_worker)", ":\n"]
    assert written[-5:] == ["", "RuntimeError", ": ", "so", "\n"]
    assert written.count("^") > 300
