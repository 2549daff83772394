"""Pictures that a workflow sends through the event socket are its outputs, like those that it saves."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from PIL import Image

from harness import eventually
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from harness import Service


def graph(*senders: str, batch: int = 1, slow: float = 0.0) -> dict[str, Any]:
    """Pictures of one colour, sent by nodes of these ids; before that a node takes so many seconds."""
    nodes: dict[str, Any] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 72, "height": 64, "batch_size": batch, "color": 0x336699}}
    }
    if slow:
        steps = {"image": ["1", 0], "steps": 10, "seconds_per_step": slow / 10}
        nodes["2"] = {"class_type": "SlowProgress", "inputs": steps}
    for node_id in senders:
        nodes[node_id] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["2" if slow else "1", 0]}}
    return nodes


async def pictures(service: Service, job: dict[str, Any]) -> list[tuple[str, tuple[int, int], Any]]:
    """(node, size, colour) of each output of a completed job."""
    assert job["status"] == "completed", job
    found = []
    for output in job["outputs"]:
        assert (output["kind"], output["content_type"]) == ("image", "image/png")
        image = Image.open(io.BytesIO(await (await service.client.get(output["url"])).read()))
        found.append((output["node_id"], image.size, image.convert("RGB").getpixel((3, 3))))
    return found


async def run(service: Service, nodes: dict[str, Any]) -> dict[str, Any]:
    job = await service.submit(job_type="workflow", workflow=nodes)
    return await service.finished(job["job_id"])


async def test_a_batch_that_is_only_sent_is_kept_whole_and_in_order(service: Service) -> None:
    job = await run(service, graph("5", "4", batch=3))
    assert await pictures(service, job) == [(node, (72, 64), (0x33, 0x66, 0x99)) for node in "555444"]
    assert job["attempt"] == 1


async def test_what_is_sent_is_kept_beside_what_is_saved(service: Service) -> None:
    nodes = graph("7")
    nodes["9"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "saved"}}
    assert sorted(node for node, _, _ in await pictures(service, await run(service, nodes))) == ["7", "9"]


async def test_of_a_sampler_that_shows_what_it_does_only_the_picture_is_an_output(service: Service) -> None:
    job = await service.submit()
    done = await service.finished(job["job_id"])
    assert [output["node_id"] for output in done["outputs"]] == ["save"]


async def test_pictures_that_were_lost_with_the_connection_are_made_again(service: Service) -> None:
    job = await service.submit(job_type="workflow", workflow=graph("5", slow=1.0))

    async def begun() -> bool:
        return bool(service.standin.state.log.executions)

    await eventually(begun)
    await service.standin.state.apply(Fault(kind=FaultKind.DROP_SOCKETS))
    done = await service.finished(job["job_id"])
    assert len(await pictures(service, done)) == 1
    assert [attempt["error_code"] for attempt in done["attempts"]] == ["backend_lost", None]
