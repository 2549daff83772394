"""What appears on a backend while it runs is found before a job is refused for it, and costs the backend little."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientSession

from app.keys import REGISTRY
from app.messaging.offer_questions import OfferQuestions
from app.services import offer_refresh, submit
from app.services.offer_refresh import OfferRefresh
from app.storage.attempts import AttemptStore
from harness import GUARD_S, LIVES, SMALL_BODY, Service, eventually
from worker.attempts import other_backends
from worker.attempts.other_backends import OtherBackends
from worker.attempts.submission import prepared
from worker.comfyui import backend_offer
from worker.comfyui.backend import Backend
from worker.comfyui.client import ComfyUI
from worker.standin.faults import Fault, FaultKind

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.test_utils import TestClient
    from arq.connections import ArqRedis

    from app.messaging.channels import Names
    from app.messaging.registry import Registry
    from app.storage.database import Database
    from harness import StandinServer
    from worker.main import WorkerProcess

NEW = "just-copied.safetensors"
JOBS = "/api/v1/generation-jobs/"
LOADER = "CheckpointLoaderSimple"
HANG = Fault(kind=FaultKind.HANG, times=None, node="KSampler")
SILENT = Fault(kind=FaultKind.SLOW_HTTP, times=None, seconds=3600, route="/object_info/")
SCALED = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {
        "class_type": "ImageScale",
        "inputs": {"image": ["1", 0], "upscale_method": "nearest-exact", "width": 32, "height": 32, "crop": "disabled"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "small"}},
}


def copy_in(standin: StandinServer, name: str = NEW) -> None:
    """Put a checkpoint into the folder of a running backend."""
    standin.state.install(checkpoints=(*standin.state.options.checkpoints, name))


def asked(standin: StandinServer, node_class: str = LOADER) -> int:
    """Return how often the backend was asked for one node class."""
    return standin.state.log.requests[f"GET /object_info/{node_class}"]


async def refused(client: TestClient[Any, Any], name: str, **changes: Any) -> dict[str, Any]:
    """Submit a job with a checkpoint that nobody has, and return the problem."""
    answer = await client.post(JOBS, json=SMALL_BODY | {"checkpoint_model": name} | changes)
    assert answer.status == 422, await answer.text()
    return dict(await answer.json())


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks waits for as long as a busy machine takes to answer."""
    for module in (offer_refresh, submit, other_backends):
        monkeypatch.setattr(module, "WAIT_S", 30)


@pytest.fixture
async def lone(
    client: TestClient[Any, Any], start_standin: Callable[..., Awaitable[StandinServer]]
) -> AsyncIterator[tuple[Backend, StandinServer, Registry]]:
    """A backend that no worker drives, which has just been read, its server, and where it is told of."""
    standin = await start_standin()
    async with ClientSession() as session:
        backend = Backend(
            "b", standin.url, ComfyUI(session, standin.url, timeout_s=5, max_message_bytes=10**6), slots=1
        )
        await backend.refresh(client.server.app[REGISTRY])
        yield backend, standin, client.server.app[REGISTRY]


# Before 201.


async def test_a_checkpoint_that_was_just_copied_in_is_taken_at_once(service: Service) -> None:
    copy_in(service.standin)
    done = await service.run(checkpoint_model=NEW)
    assert (done["status"], done["checkpoint_model"], done["attempt"]) == ("completed", NEW, 1)
    before = asked(service.standin)
    await service.submit(checkpoint_model=NEW)
    # What was read is known to everybody now.
    assert asked(service.standin) == before


async def test_it_is_taken_right_after_it_was_refused(service: Service) -> None:
    await refused(service.client, NEW)
    copy_in(service.standin)
    assert (await service.run(checkpoint_model=NEW))["status"] == "completed"


async def test_it_is_taken_while_the_backend_is_busy(service: Service) -> None:
    await service.standin.state.apply(replace(HANG))
    job = await service.submit()

    async def executing() -> bool:
        return bool((await service.job(job["job_id"]))["phase"] == "executing")

    await eventually(executing)
    copy_in(service.standin)
    later = await service.submit(checkpoint_model=NEW)
    service.standin.state.faults.clear()
    assert (await service.finished(later["job_id"]))["status"] == "completed"


async def test_a_node_class_that_is_there_now_is_taken_with_the_file_that_it_needs(service: Service) -> None:
    # The loader is new, and what it is to load too: the second is seen only when the first is known.
    types = service.standin.state.types
    named = types[LOADER]
    types["NewLoader"] = replace(named, name="NewLoader")
    workflow = {
        **SCALED,
        "4": {"class_type": "NewLoader", "inputs": {"ckpt_name": NEW}},
        "5": {"class_type": LOADER, "inputs": {"ckpt_name": NEW}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["4", 2]}},
        "7": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "a"}},
        "9": {"class_type": "VAEDecode", "inputs": {"samples": ["7", 0], "vae": ["5", 2]}},
        "10": {"class_type": "SaveImage", "inputs": {"images": ["9", 0], "filename_prefix": "b"}},
    }
    copy_in(service.standin)
    types["NewLoader"] = replace(types[LOADER], name="NewLoader")
    done = await service.run(job_type="workflow", prompt=None, workflow=workflow)
    assert done["status"] == "completed", done["error_message"]


async def test_a_class_that_came_with_a_new_pack_is_taken(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> None:
    standin = await start_standin()
    scale = standin.state.types.pop("ImageScale")
    service = Service(client, standin, await start_worker(f"standin={standin.url}"))
    await service.backend_online()
    body = {"job_type": "workflow", "prompt": None, "workflow": SCALED}
    answer = await client.post(JOBS, json=SMALL_BODY | body)
    assert (answer.status, (await answer.json())["errors"][0]["code"]) == (422, "unknown_node_class")
    standin.state.types["ImageScale"] = scale
    assert (await service.run(**body))["status"] == "completed"


async def test_no_checkpoint_at_all_is_asked_for_anew(service: Service) -> None:
    standin, types = service.standin, service.standin.state.types
    loader = types[LOADER]
    types[LOADER] = replace(loader, required={"ckpt_name": replace(loader.required["ckpt_name"], kind=list)})
    await service.worker.pool.backends["standin"].offering.read_again(LOADER)
    await service.worker.pool.backends["standin"].refresh(service.client.server.app[REGISTRY])
    await service.worker.heartbeat.beat()

    async def none_offered() -> bool:
        answer = await service.client.post(JOBS, json=SMALL_BODY)
        return answer.status == 422 and (await answer.json())["errors"][0]["code"] == "no_checkpoint"

    await eventually(none_offered)
    copy_in(standin)
    assert (await service.run())["status"] == "completed"


async def test_of_two_backends_that_only_one_has_it_is_enough(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
) -> None:
    one, two = await start_standin(), await start_standin()
    service = Service(client, one, await start_worker(f"one={one.url}"))
    await start_worker(f"two={two.url}")
    await service.backend_online(2)
    copy_in(two)
    done = await service.run(checkpoint_model=NEW)
    assert (done["status"], done["backend_name"]) == ("completed", "two")
    assert asked(one) > 0


async def test_who_is_asked_and_does_not_answer_holds_up_neither_a_yes_nor_a_no_for_long(
    client: TestClient[Any, Any],
    start_standin: Callable[..., Awaitable[StandinServer]],
    start_worker: Callable[..., Awaitable[WorkerProcess]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    silent, other = await start_standin(), await start_standin()
    worker = await start_worker(f"silent={silent.url},other={other.url}", comfyui_timeout_seconds=600)
    service = Service(client, other, worker)
    await service.backend_online(2)
    await silent.state.apply(replace(SILENT))
    for module in (offer_refresh, submit):
        monkeypatch.setattr(module, "WAIT_S", 1)
    async with asyncio.timeout(GUARD_S):
        await refused(client, "nowhere.safetensors")
    copy_in(other)
    monkeypatch.setattr(submit, "WAIT_S", 600)
    monkeypatch.setattr(offer_refresh, "WAIT_S", 600)
    async with asyncio.timeout(GUARD_S):
        assert (await service.run(checkpoint_model=NEW))["backend_name"] == "other"


async def test_a_wrong_name_is_refused_with_the_right_one(service: Service) -> None:
    problem = await refused(service.client, "dreamshaper_9.safetensors")
    (fault,) = problem["errors"]
    assert (fault["pointer"], fault["code"]) == ("/checkpoint_model", "value_not_in_list")
    assert fault["suggestion"] == "dreamshaper_8.safetensors"
    assert asked(service.standin) == 1


async def test_a_fault_that_no_file_can_mend_is_not_asked_about(service: Service) -> None:
    workflow = {**SCALED, "2": SCALED["2"] | {"inputs": {"upscale_method": "area"}}}
    body = SMALL_BODY | {"job_type": "workflow", "prompt": None, "workflow": workflow}
    assert (await service.client.post(JOBS, json=body)).status == 422
    assert asked(service.standin, "ImageScale") == 0


@LIVES
async def test_many_refused_at_once_cost_the_backend_one_question(service: Service) -> None:
    began = time.monotonic()
    await asyncio.gather(*(refused(service.client, f"wrong-{number}.safetensors") for number in range(40)))
    took_s = time.monotonic() - began
    requests = service.standin.state.log.requests
    # The second is for requests that came while the first was under way; a slow machine is asked once a second.
    assert 1 <= asked(service.standin) <= 2 + took_s / backend_offer.CLASS_EVERY_S, requests


async def test_who_asks_again_and_again_costs_the_backend_a_question_a_second(service: Service) -> None:
    began = time.monotonic()
    for number in range(4):
        await refused(service.client, f"wrong-{number}.safetensors")
    took_s = time.monotonic() - began
    assert asked(service.standin) <= 1 + took_s / backend_offer.CLASS_EVERY_S


async def test_a_backend_that_answers_slowly_is_left_in_peace_for_longer(
    lone: tuple[Backend, StandinServer, Registry],
) -> None:
    backend, standin, _ = lone
    assert backend.offering.wait_s(LOADER) == 0
    await backend.offering.read_again(LOADER)
    wait_s = backend.offering.wait_s(LOADER)
    assert wait_s is None or wait_s > 0
    await standin.state.apply(Fault(kind=FaultKind.SLOW_HTTP, seconds=0.5, route="/object_info/KSampler"))
    await backend.offering.read_again("KSampler")
    assert backend.offering.wait_s("KSampler") is None


async def test_names_that_nobody_has_are_asked_for_only_so_often(service: Service) -> None:
    async def wrong(number: int) -> None:
        nodes = {f"{each}": {"class_type": f"No{number}-{each}", "inputs": {}} for each in range(45)}
        body = SMALL_BODY | {"job_type": "workflow", "prompt": None, "workflow": nodes}
        assert (await service.client.post(JOBS, json=body)).status == 422

    began = time.monotonic()
    await asyncio.gather(*(wrong(number) for number in range(6)))
    took_s = time.monotonic() - began
    requests = service.standin.state.log.requests
    count = sum(times for line, times in requests.items() if line.startswith("GET /object_info/"))
    assert 1 <= count <= backend_offer.MOST_UNKNOWN * (1 + took_s / backend_offer.LATELY_S)


@pytest.mark.parametrize("name", ["..", "a/b", "日本 node ", "%2e", "a?b#c", "x" * 2_000])
async def test_a_class_is_asked_for_by_its_name_whatever_that_is(service: Service, name: str) -> None:
    body = SMALL_BODY | {"job_type": "workflow", "prompt": None}
    workflow = {**SCALED, "2": SCALED["2"] | {"class_type": name}}
    answer = await service.client.post(JOBS, json=body | {"workflow": workflow})
    assert (answer.status, (await answer.json())["errors"][0]["code"]) == (422, "unknown_node_class")
    if name not in ("..", "x" * 2_000):
        types = service.standin.state.types
        types[name] = replace(types["ImageScale"], name=name)

        async def accepted() -> int | None:
            # A class is read once a second at most: until then the answer may be that of the last reading.
            answer = await service.client.post(JOBS, json=body | {"workflow": workflow})
            return (await answer.json())["job_id"] if answer.status == 201 else None

        done = await service.finished(await eventually(accepted))
        assert done["status"] == "completed", done["error_message"]


# At the claim.


async def test_a_worker_looks_again_before_it_passes_a_job_on(
    lone: tuple[Backend, StandinServer, Registry], service: Service, database: Database
) -> None:
    backend, standin, _ = lone
    job = await AttemptStore(database).whole((await service.submit())["job_id"])
    copy_in(standin)
    sent = await prepared(replace(job, checkpoint_model=NEW), backend, "p")
    assert sent.graph["checkpoint"]["inputs"]["ckpt_name"] == NEW


async def test_a_worker_that_cannot_look_again_leaves_the_word_to_comfyui(
    lone: tuple[Backend, StandinServer, Registry], service: Service, database: Database
) -> None:
    backend, standin, _ = lone
    job = await AttemptStore(database).whole((await service.submit())["job_id"])
    await standin.state.apply(Fault(kind=FaultKind.REFUSE, times=None, route="/object_info/"))
    sent = await prepared(replace(job, checkpoint_model=NEW), backend, "p")
    assert sent.graph["checkpoint"]["inputs"]["ckpt_name"] == NEW
    strange = {**SCALED, "2": SCALED["2"] | {"class_type": "Strange"}}
    sent = await prepared(replace(job, workflow=strange), backend, "p")
    assert sent.graph["2"]["_meta"] == {"title": "Strange"}


async def test_a_file_that_is_gone_is_refused_after_the_first_job_that_meets_that(service: Service) -> None:
    gone = service.standin.state.options.checkpoints[-1]
    service.standin.state.install(checkpoints=service.standin.state.options.checkpoints[:-1])
    failed = await service.run(checkpoint_model=gone)
    assert (failed["status"], failed["error_code"]) == ("failed", "not_offered_by_backend")
    offered = service.worker.pool.backends["standin"]
    assert gone not in offered.catalog.checkpoints
    await offered.refresh(service.client.server.app[REGISTRY])
    await service.worker.heartbeat.beat()

    async def is_refused() -> bool:
        # Who is told yes, is told so by the heartbeats of a moment ago.
        answer = await service.client.post(JOBS, json=SMALL_BODY | {"checkpoint_model": gone})
        return answer.status == 422

    await eventually(is_refused)


async def test_another_backend_that_has_it_by_now_is_found(
    service: Service, database: Database, redis: ArqRedis, names: Names
) -> None:
    worker = service.worker
    questions = OfferQuestions(redis, names)
    others = OtherBackends(worker.pool, OfferRefresh(questions))
    job = await AttemptStore(database).whole((await service.submit())["job_id"])
    lacking = replace(job, checkpoint_model=NEW)
    assert not await others.offered(lacking, ["other"])
    assert not await others.offered(job, ["standin"])
    copy_in(service.standin)
    assert await others.offered(lacking, ["other"])


# The list as a whole.


async def test_a_busy_backend_is_asked_for_everything_too_only_less_often(
    lone: tuple[Backend, StandinServer, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, standin, registry = lone
    backend.take_slot()
    copy_in(standin)
    monkeypatch.setattr(backend.offering, "_due_at", float("-inf"))
    for age_s, known in ((backend_offer.AGE_S + 1, False), (backend_offer.BUSY_AGE_S + 1, True)):
        monkeypatch.setattr(backend.offering, "_read_at", time.monotonic() - age_s)
        await backend.refresh(registry)
        assert (NEW in backend.catalog.checkpoints) is known


async def test_what_was_read_of_one_class_is_seen_by_others_and_is_part_of_the_next_whole(
    lone: tuple[Backend, StandinServer, Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, standin, registry = lone
    whole = backend.offering.digest
    copy_in(standin)
    await backend.offering.read_again(LOADER)
    assert await backend.offering.publish(registry)
    assert not await backend.offering.publish(registry)
    assert backend.offering.digest != whole
    seen = await registry.catalog(str(backend.offering.digest))
    assert seen is not None
    assert seen.checkpoints[-1] == NEW
    assert seen.nodes.keys() == backend.catalog.nodes.keys()
    monkeypatch.setattr(backend.offering, "_due_at", float("-inf"))
    backend.offering.forget_age()
    await backend.refresh(registry)
    assert "+" not in str(backend.offering.digest)
    assert NEW in backend.catalog.checkpoints
