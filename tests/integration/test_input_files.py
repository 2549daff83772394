"""Files in jobs: every form of reference, checked before 201, given to each backend once."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from integration.tcp_proxy import TcpProxy
from PIL import Image
from pydantic import SecretStr

from app.domain.errors import InputUnavailable
from app.settings import ROOT
from app.storage.database import Database, make_engine
from app.storage.uploads import UploadStore
from harness import BOTH_AGES, SMALL_BODY, Service, eventually
from worker.attempts.input_files import InputFiles
from worker.standin.faults import Fault, FaultKind, UploadFault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestServer

    from app.settings import Settings
    from harness import StandinServer, Workers

    Allow = Callable[[Service, Workers], Awaitable[None]]

JOBS = "/api/v1/generation-jobs/"
UPLOADS = "/api/v1/uploads"
MEDIA = ROOT / "tests" / "data" / "media"
USER = SMALL_BODY["user_id"]
SEND, ASK = "POST /upload/image", "HEAD /view"


def picture(color: str = "teal", size: tuple[int, int] = (48, 32), form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, form)
    return file.getvalue()


def loading(image: Any, **more: Any) -> dict[str, Any]:
    """A graph that saves the picture that it loads."""
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": image}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "copy"}},
        **more,
    }


async def uploaded(service: Service, data: bytes, user: str = USER) -> str:
    answer = await service.client.post(UPLOADS, params={"user_id": user}, data=io.BytesIO(data))
    assert answer.status in (200, 201), await answer.text()
    return str((await answer.json())["upload_id"])


async def run(service: Service, graph: dict[str, Any], **fields: Any) -> dict[str, Any]:
    done = await service.run(job_type="workflow", prompt=None, workflow=graph, **fields)
    assert done["status"] == "completed", (done["error_code"], done["error_message"])
    return done


async def refused(service: Service, **body: Any) -> dict[str, Any]:
    answer = await service.client.post(JOBS, json=SMALL_BODY | body)
    assert answer.status == 422, await answer.text()
    return dict(await answer.json())


async def refused_workflow(service: Service, graph: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return await refused(service, job_type="workflow", prompt=None, workflow=graph, **fields)


async def shown(service: Service, job: dict[str, Any], index: int = 0) -> Image.Image:
    """Return an output as a picture."""
    data = await (await service.client.get(job["outputs"][index]["url"])).read()
    return Image.open(io.BytesIO(data)).convert("RGB")


def count(service: Service, route: str) -> int:
    return service.standin.state.log.requests[route]


# The forms of a reference.


async def test_the_text_of_an_upload_stands_in_a_workflow(service: Service) -> None:
    data = picture("orange")
    upload_id = await uploaded(service, data)
    done = await run(service, loading(f"upload:{upload_id}"))
    picture_out = await shown(service, done)
    assert (picture_out.size, picture_out.getpixel((0, 0))) == ((48, 32), (255, 165, 0))
    sent = await (await service.client.get(done["links"]["workflow"])).json()
    assert sent["1"]["inputs"]["image"] == f"genonaut/{hashlib.sha256(data).hexdigest()}.png"
    # What is kept of the job names the upload.
    assert done["workflow"]["1"]["inputs"]["image"] == f"upload:{upload_id}"


@pytest.mark.parametrize("as_text", [True, False])
async def test_inputs_name_the_places_of_files(service: Service, as_text: bool) -> None:
    upload_id = await uploaded(service, picture("orange"))
    reference: Any = f"upload:{upload_id}" if as_text else {"upload": upload_id}
    done = await run(service, loading("example.png"), inputs={"1.image": reference})
    assert (await shown(service, done)).getpixel((0, 0)) == (255, 165, 0)
    assert done["inputs"] == {"1.image": {"upload": upload_id}}
    assert done["workflow"]["1"]["inputs"]["image"] == "example.png"


async def test_an_override_may_be_an_upload(service: Service) -> None:
    upload_id = await uploaded(service, picture("orange"))
    done = await run(service, loading("example.png"), overrides={"1.image": f"upload:{upload_id}"})
    assert (await shown(service, done)).getpixel((0, 0)) == (255, 165, 0)


async def test_the_output_of_an_earlier_job_is_an_input(service: Service) -> None:
    first = await run(service, loading(f"upload:{await uploaded(service, picture('orange'))}"))
    reference = {"content": first["content_id"], "output": 0}
    second = await run(service, loading(""), inputs={"1.image": reference})
    kept = second["inputs"]["1.image"]
    assert {name: kept[name] for name in reference} == reference
    # The job that made it may be deleted now; and what an answer shows can be sent again.
    assert (await service.client.delete(f"{JOBS}{first['job_id']}")).status == 204
    third = await run(service, loading(""), inputs={"1.image": kept})
    assert (await shown(service, third)).getpixel((0, 0)) == (255, 165, 0)


async def test_base64_becomes_an_upload(service: Service, settings: Settings) -> None:
    data = picture("orange")
    text = "data:image/png;base64," + base64.b64encode(data).decode()
    done = await run(service, loading(""), inputs={"1.image": {"data": text}})
    assert (await shown(service, done)).getpixel((0, 0)) == (255, 165, 0)
    (upload_id,) = done["inputs"]["1.image"].values()
    assert upload_id == await uploaded(service, data)


# URLs.


@pytest.fixture
async def files(aiohttp_server: Callable[..., Awaitable[TestServer]]) -> Any:
    """A server of files on this machine, which counts how often it is asked."""
    asked: list[str] = []

    async def give(request: web.Request) -> web.Response:
        asked.append(request.path)
        match request.path:
            case "/page.html":
                return web.Response(text="<!doctype html><p>no picture", content_type="text/html")
            case "/gone.png":
                return web.Response(status=404)
            case "/busy.png":
                return web.Response(status=503 if len(asked) < 2 else 200, body=picture("orange"))
        return web.Response(body=picture("orange", (100, 60)), content_type="image/png")

    app = web.Application()
    app.router.add_get("/{name}", give)
    server = await aiohttp_server(app)
    server.asked = asked
    return server


async def test_a_url_is_fetched_once_by_the_worker(
    service: Service, start_worker: Workers, files: Any, allow_this_machine: Allow
) -> None:
    await allow_this_machine(service, start_worker)
    url = str(files.make_url("/a.png"))
    done = await run(service, loading(""), inputs={"1.image": {"url": url}})
    assert (await shown(service, done)).size == (100, 60)
    assert files.asked == ["/a.png"]
    kept = done["inputs"]["1.image"]
    assert (kept["url"], len(kept["upload"])) == (url, 32)


@pytest.mark.slow
async def test_postgresql_away_while_a_file_is_fetched_costs_a_delay(
    service: Service,
    settings: Settings,
    start_worker: Workers,
    aiohttp_server: Callable[..., Awaitable[TestServer]],
    allow_this_machine: Allow,
) -> None:
    proxy, database_url = await TcpProxy.before(settings.database_url.get_secret_value())
    asked: list[str] = []

    async def give(request: web.Request) -> web.Response:
        asked.append(request.path)
        if len(asked) == 1:
            await proxy.cut()
        return web.Response(body=picture("orange"), content_type="image/png")

    app = web.Application()
    app.router.add_get("/a.png", give)
    files = await aiohttp_server(app)
    await allow_this_machine(service, start_worker)
    await service.exchange_worker(start_worker, input_networks="127.0.0.0/8", database_url=SecretStr(database_url))
    job = await service.submit(
        job_type="workflow",
        prompt=None,
        workflow=loading(""),
        inputs={"1.image": {"url": str(files.make_url("/a.png"))}},
    )

    async def asked_again() -> bool:
        return len(asked) > 1

    await eventually(asked_again)
    await proxy.restore()
    done = await service.finished(job["job_id"])
    assert (done["status"], done["attempt"], done["error_code"]) == ("completed", 1, None)
    await proxy.cut()


async def test_postgresql_away_while_files_are_looked_up_is_waited_for(settings: Settings) -> None:
    proxy, database_url = await TcpProxy.before(settings.database_url.get_secret_value())
    away = Database(make_engine(settings.model_copy(update={"database_url": SecretStr(database_url)})))
    nothing: Any = None
    inputs = InputFiles(nothing, UploadStore(away), nothing, nothing, nothing, nothing)
    await proxy.cut()
    looking = asyncio.create_task(inputs.given({}, [("1", "image", "gone")], nothing))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(looking), 0.3)
    await proxy.restore()
    with pytest.raises(InputUnavailable, match="The upload gone of node 1, input 'image', was deleted"):
        await looking
    await away.close()
    await proxy.cut()


async def test_a_url_that_is_away_is_asked_again_with_the_next_attempt(
    service: Service, start_worker: Workers, files: Any, allow_this_machine: Allow
) -> None:
    await allow_this_machine(service, start_worker)
    done = await run(service, loading(""), inputs={"1.image": {"url": str(files.make_url("/busy.png"))}})
    assert (done["attempt"], files.asked) == (2, ["/busy.png", "/busy.png"])
    assert done["attempts"][0]["error_code"] == "input_unavailable"


@pytest.mark.parametrize(("name", "word"), [("gone.png", "404"), ("page.html", "a web page")])
async def test_a_url_that_is_no_picture_fails_the_job_once(
    service: Service, start_worker: Workers, files: Any, allow_this_machine: Allow, name: str, word: str
) -> None:
    await allow_this_machine(service, start_worker)
    url = str(files.make_url(f"/{name}"))
    job = await service.submit(job_type="workflow", prompt=None, workflow=loading(""), inputs={"1.image": {"url": url}})
    done = await service.finished(job["job_id"])
    assert (done["status"], done["error_code"], done["attempt"]) == ("failed", "input_unavailable", 1)
    assert url in done["error_message"]
    assert word in done["error_message"]


async def test_a_name_that_leads_to_this_machine_is_no_public_address(service: Service, files: Any) -> None:
    # The name is looked up by the worker only.
    url = str(files.make_url("/a.png")).replace("127.0.0.1", "localhost.localdomain")
    graph = loading("")
    answer = await service.client.post(
        JOBS, json=SMALL_BODY | {"job_type": "workflow", "workflow": graph, "inputs": {"1.image": {"url": url}}}
    )
    if answer.status == 201:
        done = await service.finished((await answer.json())["job_id"])
        assert (done["status"], done["error_code"]) == ("failed", "input_unavailable")
    else:
        assert answer.status == 422
    assert files.asked == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/a.png", "ftp://example.com/a.png", "http://169.254.169.254/", "http://[::1]/", "nonsense"]
)
async def test_a_url_that_is_not_allowed_is_refused_at_once(service: Service, url: str) -> None:
    problem = await refused_workflow(service, loading(""), inputs={"1.image": {"url": url}})
    assert [(each["pointer"], each["code"]) for each in problem["errors"]] == [("/inputs/1.image/url", "url_refused")]


# Checked before 201.


async def test_an_upload_that_is_not_there_or_not_the_callers_is_refused_by_its_place(service: Service) -> None:
    foreign = await uploaded(service, picture(), user="somebody else")
    for upload_id in (foreign, "nowhere"):
        in_text = await refused_workflow(service, loading(f"upload:{upload_id}"))
        in_inputs = await refused_workflow(service, loading(""), inputs={"1.image": {"upload": upload_id}})
        simple = await refused(service, image={"upload": upload_id})
        places = [
            [(each["pointer"], each["code"]) for each in problem["errors"]] for problem in (in_text, in_inputs, simple)
        ]
        assert places == [
            [("/workflow/1/inputs/image", "unknown_upload")],
            [("/inputs/1.image", "unknown_upload")],
            [("/image", "unknown_upload")],
        ]


async def test_the_output_of_another_users_job_is_not_there(service: Service) -> None:
    done = await service.run(user_id="somebody else")
    for reference in (
        {"content": done["content_id"]},
        {"content": 999, "output": 0},
        {"content": done["content_id"], "output": 9},
    ):
        problem = await refused_workflow(service, loading(""), inputs={"1.image": reference})
        assert [(each["pointer"], each["code"]) for each in problem["errors"]] == [
            ("/inputs/1.image", "content_not_found")
        ]


async def test_a_sound_in_a_loader_of_pictures_is_refused_by_its_place(service: Service) -> None:
    sound = await uploaded(service, (MEDIA / "a.flac").read_bytes())
    for body, pointer in (
        ({"workflow": loading(f"upload:{sound}")}, "/workflow/1/inputs/image"),
        ({"workflow": loading(""), "inputs": {"1.image": {"upload": sound}}}, "/inputs/1.image"),
    ):
        problem = await refused(service, job_type="workflow", prompt=None, **body)
        (fault,) = problem["errors"]
        assert (fault["pointer"], fault["code"]) == (pointer, "wrong_kind_of_file")
        assert "takes a picture, and the upload is a sound (audio/x-flac)" in fault["detail"]
    problem = await refused(service, image={"upload": sound})
    assert [(each["pointer"], each["code"]) for each in problem["errors"]] == [("/image", "wrong_kind_of_file")]


async def test_a_file_where_none_belongs_is_refused(service: Service) -> None:
    upload = f"upload:{await uploaded(service, picture())}"
    scaled = {
        "class_type": "ImageScale",
        "inputs": {"image": upload, "upscale_method": upload, "width": upload, "height": 8, "crop": "disabled"},
    }
    graph = loading(upload, **{"3": scaled})
    graph["2"]["inputs"]["images"] = ["3", 0]
    problem = await refused_workflow(service, graph)
    found = {each["pointer"]: each["code"] for each in problem["errors"]}
    assert found == dict.fromkeys(
        (f"/workflow/3/inputs/{name}" for name in ("image", "upscale_method", "width")), "takes_no_file"
    )


async def test_a_file_for_a_node_that_is_not_there_is_refused_by_its_place(service: Service) -> None:
    for fields, pointer in (
        ({"inputs": {"9.image": {"content": 1}}}, "/inputs/9.image"),
        ({"inputs": {"1.image": {}}}, "/inputs/1.image"),
        ({"image": {"content": 1}}, "/image"),
    ):
        problem = await refused_workflow(service, loading("example.png"), **fields)
        assert [each["pointer"] for each in problem["errors"]] == [pointer], problem


async def test_base64_that_is_no_picture_is_refused_by_its_place(service: Service) -> None:
    text = "data:image/png;base64," + base64.b64encode(b"no picture").decode()
    problem = await refused_workflow(service, loading(""), inputs={"1.image": {"data": text}})
    assert [(each["pointer"], each["code"]) for each in problem["errors"]] == [("/inputs/1.image", "invalid_upload")]


async def test_an_upload_that_a_job_waits_for_is_not_deleted(service: Service) -> None:
    upload_id = await uploaded(service, picture())
    waiting = await service.submit(
        job_type="workflow", prompt=None, workflow=loading(f"upload:{upload_id}"), not_before="2100-01-01T00:00:00Z"
    )
    one = f"{UPLOADS}/{upload_id}"
    answer = await service.client.delete(one)
    assert (answer.status, (await answer.json())["code"]) == (409, "upload_in_use")
    assert (await service.client.post(f"{JOBS}{waiting['job_id']}/cancel")).status == 200
    assert (await service.client.delete(one)).status == 204


async def test_a_retry_whose_upload_was_deleted_meanwhile_says_so(service: Service) -> None:
    upload_id = await uploaded(service, picture())
    job = await service.submit(
        job_type="workflow", prompt=None, workflow=loading(f"upload:{upload_id}"), not_before="2100-01-01T00:00:00Z"
    )
    await service.client.post(f"{JOBS}{job['job_id']}/cancel")
    await service.client.delete(f"{UPLOADS}/{upload_id}")
    assert (await service.client.post(f"{JOBS}{job['job_id']}/retry")).status == 200
    done = await service.finished(job["job_id"])
    assert (done["status"], done["error_code"]) == ("failed", "input_unavailable")
    assert upload_id in done["error_message"]


# To the backend.


async def test_a_file_is_given_to_a_backend_once(service: Service) -> None:
    graph = loading(f"upload:{await uploaded(service, picture())}")
    for _ in range(3):
        await run(service, graph)
    assert (count(service, SEND), count(service, ASK)) == (1, 1)


async def test_a_file_that_the_backend_has_is_not_sent_again_by_another_worker(
    service: Service, start_worker: Workers
) -> None:
    graph = loading(f"upload:{await uploaded(service, picture())}")
    await run(service, graph)
    await service.exchange_worker(start_worker)
    await run(service, graph)
    assert (count(service, SEND), count(service, ASK)) == (1, 2)


async def test_a_backend_that_lost_its_disk_is_given_the_file_again(service: Service) -> None:
    graph = loading(f"upload:{await uploaded(service, picture())}")
    await run(service, graph)
    for path in service.standin.state.folders.folder("input").rglob("*"):
        if path.is_file():
            path.unlink()
    done = await run(service, graph)
    assert (done["attempt"], count(service, SEND)) == (1, 2)


async def test_the_next_backend_is_sent_what_it_lacks(
    service: Service, start_standin: Callable[..., Awaitable[StandinServer]], start_worker: Workers
) -> None:
    other = await start_standin()
    await service.exchange_worker(start_worker, f"standin={service.standin.url},other={other.url}")
    graph = loading(f"upload:{await uploaded(service, picture())}")
    for backend in ("standin", "other", "standin", "other"):
        done = await run(service, graph, backend=backend)
        assert done["backend_name"] == backend
    assert (count(service, SEND), other.state.log.requests[SEND]) == (1, 1)


async def test_a_file_of_which_a_part_is_there_is_sent_again(service: Service) -> None:
    data = picture()
    folder = service.standin.state.folders.folder("input") / "genonaut"
    folder.mkdir()
    (folder / f"{hashlib.sha256(data).hexdigest()}.png").write_bytes(data[:40])
    await run(service, loading(f"upload:{await uploaded(service, data)}"))
    assert count(service, SEND) == 1


async def test_figures_say_how_backends_came_to_have_files(service: Service) -> None:
    data = picture()
    graph = loading(f"upload:{await uploaded(service, data)}")
    for _ in range(3):
        await run(service, graph)

    async def told() -> bool:
        text = await (await service.client.get("/metrics")).text()
        return (
            'genonaut_input_files_total{how="sent"} 1.0' in text
            and 'genonaut_input_files_total{how="known"} 2.0' in text
            and f'genonaut_input_bytes_total{{backend="standin"}} {float(len(data))}' in text
        )

    await eventually(told)


# Bad days.


async def test_a_file_that_two_runs_need_at_once_is_sent_once(service: Service) -> None:
    upload_id = await uploaded(service, picture())
    await slowly(service, 0.5)
    jobs = [
        await service.submit(job_type="workflow", prompt=None, workflow=loading(f"upload:{upload_id}", **each))
        for each in ({}, {"9": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})
    ]
    for job in jobs:
        assert (await service.finished(job["job_id"]))["status"] == "completed"
    assert count(service, SEND) == 1


async def test_a_worker_that_stops_while_it_sends_leaves_the_job_to_another_one(
    service: Service, start_worker: Workers
) -> None:
    upload_id = await uploaded(service, picture())
    await slowly(service, 3600)
    job = await service.submit(job_type="workflow", prompt=None, workflow=loading(f"upload:{upload_id}"))
    await eventually(lambda: is_sending(service))
    service.standin.state.faults.clear()
    await service.exchange_worker(start_worker)
    done = await service.finished(job["job_id"])
    assert (done["status"], done["attempt"], len(done["outputs"])) == ("completed", 1, 1)
    assert len(service.standin.state.log.executions) == 1


async def test_a_cancel_while_a_file_is_sent_takes_effect_at_once(service: Service) -> None:
    upload_id = await uploaded(service, picture())
    await slowly(service, 3600)
    job = await service.submit(job_type="workflow", prompt=None, workflow=loading(f"upload:{upload_id}"))
    await eventually(lambda: is_sending(service))
    await service.client.post(f"{JOBS}{job['job_id']}/cancel")
    assert (await service.finished(job["job_id"]))["status"] == "cancelled"
    assert count(service, "POST /prompt") == 0


@pytest.mark.parametrize("how", [UploadFault.ERROR, UploadFault.DISK_FULL, UploadFault.CUT, UploadFault.LOST])
async def test_an_upload_that_fails_once_is_made_again(service: Service, how: UploadFault) -> None:
    data = picture()
    await service.standin.state.apply(Fault(kind=FaultKind.UPLOAD, how=how, times=1))
    done = await run(service, loading(f"upload:{await uploaded(service, data)}"))
    assert (done["attempt"], count(service, SEND)) == (1, 2)
    folder = service.standin.state.folders.folder("input") / "genonaut"
    assert [path.read_bytes() for path in folder.iterdir()] == [data]


async def test_a_backend_that_takes_no_such_file_leaves_the_job_to_another_one(
    service: Service, start_standin: Callable[..., Awaitable[StandinServer]], start_worker: Workers
) -> None:
    other = await start_standin()
    await service.exchange_worker(start_worker, f"standin={service.standin.url},other={other.url}")
    await service.drain("other")
    fault = Fault(kind=FaultKind.UPLOAD, how=UploadFault.TOO_LARGE, times=None)
    await service.standin.state.apply(fault)
    graph = loading(f"upload:{await uploaded(service, picture())}")
    job = await service.submit(job_type="workflow", prompt=None, workflow=graph)

    async def refused_once() -> bool:
        return bool((await service.job(job["job_id"]))["attempt"] > 1)

    await eventually(refused_once)
    assert (await service.client.post("/api/v1/backends/other/resume")).status == 200
    done = await service.finished(job["job_id"])
    assert (done["status"], done["backend_name"]) == ("completed", "other"), done["error_message"]
    assert "--max-upload-size" in done["attempts"][0]["error"]


async def slowly(service: Service, seconds: float) -> None:
    """Let the backend take so long for each upload."""
    fault = Fault(kind=FaultKind.SLOW_HTTP, times=None, seconds=seconds, route="/upload/image")
    await service.standin.state.apply(fault)


async def is_sending(service: Service) -> bool:
    return count(service, SEND) > 0


# Other loaders.


@pytest.mark.parametrize(
    ("file", "loader", "name", "saver"),
    [
        (
            "av.mp4",
            "VHS_LoadVideo",
            "video",
            {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "frame"}},
        ),
        (
            "av.mp4",
            "LoadVideo",
            "file",
            {
                "class_type": "SaveVideo",
                "inputs": {"video": ["1", 0], "filename_prefix": "video", "format": "auto", "codec": "auto"},
            },
        ),
        (
            "a.flac",
            "LoadAudio",
            "audio",
            {"class_type": "SaveAudio", "inputs": {"audio": ["1", 0], "filename_prefix": "s"}},
        ),
        (
            "",
            "LoadImageOutput",
            "image",
            {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "i"}},
        ),
    ],
)
@BOTH_AGES
async def test_videos_sounds_and_other_loaders_get_their_files(
    service: Service, file: str, loader: str, name: str, saver: dict[str, Any]
) -> None:
    upload_id = await uploaded(service, (MEDIA / file).read_bytes() if file else picture())
    types = service.standin.state.types[loader]
    inputs = {each: value.config.get("default", 0) for each, value in types.required.items() if each != name}
    graph = {"1": {"class_type": loader, "inputs": {**inputs, name: f"upload:{upload_id}"}}, "2": saver}
    done = await run(service, graph)
    assert done["outputs"]
    sent = await (await service.client.get(done["links"]["workflow"])).json()
    assert sent["1"]["inputs"][name].startswith("genonaut/")
    assert sent["1"]["inputs"][name].endswith(" [input]") == (loader == "LoadImageOutput")
