"""Node classes that a backend takes for others: jobs with them run, wherever they are there and wherever replaced."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from harness import SMALL_BODY, Service, StandinServer
from worker.standin.main import STANDIN, create_app
from worker.standin.options import StandinOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestClient

    from worker.main import WorkerProcess

JOBS = "/api/v1/generation-jobs/"
REPLACING: dict[str, Any] = {
    "OldScale": [
        {
            "new_node_id": "ImageScale",
            "old_node_id": "OldScale",
            "old_widget_ids": None,
            "input_mapping": [
                {"new_id": "image", "old_id": "picture"},
                {"new_id": "width", "old_id": "size"},
                {"new_id": "height", "old_id": "size"},
                {"new_id": "upscale_method", "set_value": "nearest-exact"},
                {"new_id": "crop", "set_value": "disabled"},
            ],
            "output_mapping": None,
        }
    ],
    "OldSave": [
        {
            "new_node_id": "SaveImage",
            "input_mapping": [
                {"new_id": "images", "old_id": "pictures"},
                {"new_id": "filename_prefix", "set_value": "x"},
            ],
        }
    ],
}
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "OldScale", "inputs": {"picture": ["1", 0], "size": 32}},
    "3": {"class_type": "OldSave", "inputs": {"pictures": ["2", 0]}},
}
"""As programs write it: without `_meta`, which ComfyUI itself cannot do without at nodes that it replaces."""
BODY = {"job_type": "workflow", "prompt": None, "workflow": GRAPH}


async def start(aiohttp_server: Any, replacing: dict[str, Any]) -> StandinServer:
    """Start a stand-in that says that it takes these classes for others; it has no part in that when it is sent one."""
    app = create_app(StandinOptions(version="0.3.64", model_load_seconds=0, step_seconds=0))

    async def replacements(_: web.Request) -> web.Response:
        return web.json_response(replacing)

    app.router.add_get("/node_replacements", replacements)
    server = await aiohttp_server(app)
    return StandinServer(str(server.make_url("")).rstrip("/"), app[STANDIN])


async def test_a_job_with_replaced_classes_runs_as_what_they_become(
    client: TestClient[Any, Any],
    aiohttp_server: Any,
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> None:
    standin = await start(aiohttp_server, REPLACING)
    service = Service(client, standin, await start_worker(f"standin={standin.url}"))
    await service.backend_online()
    done = await service.run(**BODY)
    assert done["status"] == "completed", done["error_message"]
    (output,) = done["outputs"]
    assert (output["node_id"], output["width"]) == ("3", 32)
    # The client's own graph stays as it was; what was sent is another thing.
    assert done["workflow"] == GRAPH
    sent = await (await client.get(f"{JOBS}{done['job_id']}/workflow")).json()
    assert [node["class_type"] for node in sent.values()] == ["EmptyImage", "ImageScale", "SaveImage"]
    assert sent["3"]["inputs"]["filename_prefix"].startswith(f"genonaut/{done['job_id']}/")
    again = await service.run(**BODY)
    assert again["status"] == "completed", again["error_message"]


async def test_what_a_server_learnt_to_replace_since_it_was_read_is_found_before_a_refusal(
    client: TestClient[Any, Any],
    aiohttp_server: Any,
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> None:
    replacing: dict[str, Any] = {}
    standin = await start(aiohttp_server, replacing)
    service = Service(client, standin, await start_worker(f"standin={standin.url}"))
    await service.backend_online()
    answer = await client.post(JOBS, json=SMALL_BODY | BODY)
    assert answer.status == 422, await answer.text()
    replacing |= REPLACING
    done = await service.run(**BODY)
    assert done["status"] == "completed", done["error_message"]


async def test_of_two_backends_one_has_the_class_and_the_other_replaces_it(
    client: TestClient[Any, Any],
    aiohttp_server: Any,
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> None:
    replacing, native = await start(aiohttp_server, REPLACING), await start_standin(version="0.3.64")
    types = native.state.types
    types["OldSave"] = replace(
        types["SaveImage"],
        name="OldSave",
        required={"pictures": types["SaveImage"].required["images"]},
        run=_save_pictures(types["SaveImage"].run),
    )
    graph = {"1": GRAPH["1"], "3": {"class_type": "OldSave", "inputs": {"pictures": ["1", 0]}}}
    service = Service(client, native, await start_worker(f"new={replacing.url},old={native.url}"))
    await service.backend_online(2)
    for backend, sent in (("new", "SaveImage"), ("old", "OldSave")):
        done = await service.run(job_type="workflow", prompt=None, workflow=graph, backend=backend)
        assert (done["status"], done["backend_name"]) == ("completed", backend), done["error_message"]
        workflow = await (await client.get(f"{JOBS}{done['job_id']}/workflow")).json()
        assert workflow["3"]["class_type"] == sent


def _save_pictures(save: Any) -> Any:
    async def run(run: Any, inputs: Any) -> Any:
        return await save(run, {"images": inputs["pictures"], "filename_prefix": "old"})

    return run
