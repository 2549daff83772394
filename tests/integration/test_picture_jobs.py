"""Jobs without a workflow that start from a picture: image to image, inpainting, and scaling up by a model."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from aiohttp import web
from PIL import Image, ImageChops

from harness import SMALL_BODY, Service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.test_utils import TestServer

    from harness import Workers

JOBS = "/api/v1/generation-jobs/"
PLAIN = {name: value for name, value in SMALL_BODY.items() if name not in ("width", "height")}
"""A job that does not say its size."""


def noise(size: tuple[int, int] = (96, 64)) -> Image.Image:
    return Image.effect_noise(size, 90).convert("RGB")


async def uploaded(service: Service, picture: Image.Image) -> dict[str, str]:
    file = io.BytesIO()
    picture.save(file, "PNG")
    file.seek(0)
    answer = await service.client.post("/api/v1/uploads", params={"user_id": PLAIN["user_id"]}, data=file)
    assert answer.status in (200, 201), await answer.text()
    return {"upload": (await answer.json())["upload_id"]}


async def run(service: Service, **body: Any) -> dict[str, Any]:
    answer = await service.client.post(JOBS, json=PLAIN | body)
    assert answer.status == 201, await answer.text()
    done = await service.finished((await answer.json())["job_id"])
    assert done["status"] == "completed", (done["error_code"], done["error_message"])
    return done


async def shown(service: Service, done: dict[str, Any], index: int = 0) -> Image.Image:
    data = await (await service.client.get(done["outputs"][index]["url"])).read()
    return Image.open(io.BytesIO(data)).convert("RGB")


async def test_what_is_painted_depends_on_the_picture(service: Service) -> None:
    seed = {"sampler_params": {"seed": 7, "steps": 2}}
    bodies: list[dict[str, Any]] = [
        {"image": await uploaded(service, noise())},
        {"image": await uploaded(service, Image.new("RGB", (96, 64), "orange"))},
        {"width": 96, "height": 64},
    ]
    first, second, alone = [await shown(service, await run(service, **body, **seed)) for body in bodies]
    assert first.size == second.size == alone.size == (96, 64)
    assert len({each.tobytes() for each in (first, second, alone)}) == 3


async def test_the_size_is_the_pictures_own_unless_it_is_given(service: Service) -> None:
    image = await uploaded(service, Image.new("RGB", (101, 67)))
    for asked, made in (({}, (96, 64)), ({"width": 195}, (192, 120)), ({"width": 128, "height": 64}, (128, 64))):
        done = await run(service, image=image, **asked)
        assert (done["width"], done["height"]) == made
        assert (await shown(service, done)).size == made
        assert done["sampler_params"]["denoise"] == 0.75


async def test_only_what_is_white_in_the_mask_is_painted_anew(service: Service) -> None:
    picture, mask = noise(), Image.new("L", (96, 64), 0)
    mask.paste(255, (48, 0, 96, 64))
    done = await run(service, image=await uploaded(service, picture), mask=await uploaded(service, mask))
    painted = await shown(service, done)
    left, right = (0, 0, 40, 64), (56, 0, 96, 64)
    assert ImageChops.difference(painted.crop(left), picture.crop(left)).getbbox() is None
    assert ImageChops.difference(painted.crop(right), picture.crop(right)).getbbox() is not None


async def test_a_batch_of_one_picture_is_of_several(service: Service) -> None:
    picture, mask = noise(), Image.new("L", (96, 64), 255)
    body = {"image": await uploaded(service, picture), "batch_size": 3}
    for more in ({}, {"mask": await uploaded(service, mask)}):
        done = await run(service, **body, **more)
        assert len({(await shown(service, done, index)).tobytes() for index in range(3)}) == 3


async def test_loras_act_on_pictures_too(service: Service) -> None:
    image = await uploaded(service, noise())
    lora = service.standin.state.options.loras[0]
    done = await run(service, image=image, lora_models=[{"name": lora}])
    graph = await (await service.client.get(done["links"]["workflow"])).json()
    assert graph["sampler"]["inputs"]["model"] == ["lora_1", 0]
    assert graph["sampler"]["inputs"]["latent_image"] == ["latent", 0]


async def test_a_picture_is_scaled_up_by_a_model_without_a_prompt(service: Service) -> None:
    model = "RealESRGAN_x4plus.pth"
    body = {name: value for name, value in PLAIN.items() if name != "prompt"}
    answer = await service.client.post(
        JOBS, json=body | {"image": await uploaded(service, noise((32, 24))), "upscale_model": model}
    )
    assert answer.status == 201, await answer.text()
    done = await service.finished((await answer.json())["job_id"])
    assert done["status"] == "completed", done["error_message"]
    width, height = (await shown(service, done)).size
    assert (width > 32, width * 24) == (True, height * 32)
    assert done["checkpoint_model"] is None


async def test_an_upscaler_that_nobody_has_is_refused_by_its_field(service: Service) -> None:
    body = PLAIN | {"image": await uploaded(service, noise()), "upscale_model": "nowhere.pth"}
    answer = await service.client.post(JOBS, json=body)
    faults = (await answer.json())["errors"]
    assert (answer.status, [each["pointer"] for each in faults]) == (422, ["/upscale_model"])


async def test_a_picture_from_a_url_brings_its_size_when_it_is_fetched(
    service: Service,
    start_worker: Workers,
    aiohttp_server: Callable[..., Awaitable[TestServer]],
    allow_this_machine: Callable[[Service, Workers], Awaitable[None]],
) -> None:
    file = io.BytesIO()
    noise((128, 80)).save(file, "PNG")

    async def give(_: web.Request) -> web.Response:
        return web.Response(body=file.getvalue(), content_type="image/png")

    app = web.Application()
    app.router.add_get("/a.png", give)
    server = await aiohttp_server(app)
    await allow_this_machine(service, start_worker)
    answer = await service.client.post(JOBS, json=PLAIN | {"image": {"url": str(server.make_url("/a.png"))}})
    told = await answer.json()
    assert (answer.status, told["width"], told["height"]) == (201, None, None)
    done = await service.finished(told["job_id"])
    assert (done["status"], done["width"], done["height"]) == ("completed", 128, 80), done["error_message"]
    assert (await shown(service, done)).size == (128, 80)


async def test_again_asks_for_the_same_picture(service: Service) -> None:
    image = await uploaded(service, noise())
    done = await run(service, image=image, width=64)
    body = {name: done[name] for name in ("image", "prompt", "width", "height", "sampler_params")}
    again = await run(service, **body)
    assert (again["image"], (await shown(service, again)).tobytes()) == (image, (await shown(service, done)).tobytes())


async def test_the_page_of_a_job_tells_its_pictures(service: Service) -> None:
    image = await uploaded(service, noise((32, 24)))
    body = {name: value for name, value in PLAIN.items() if name != "prompt"}
    answer = await service.client.post(JOBS, json=body | {"image": image, "upscale_model": "RealESRGAN_x4plus.pth"})
    page = await (await service.client.get(f"/monitor/jobs/{(await answer.json())['job_id']}")).text()
    assert "scaled up by RealESRGAN_x4plus.pth" in page
    assert f"upload {image['upload']}" in page
    painted = await service.submit(
        image=image, mask={"url": "https://example.com/a.png"}, not_before="2100-01-01T00:00:00Z"
    )
    page = await (await service.client.get(f"/monitor/jobs/{painted['job_id']}")).text()
    assert "https://example.com/a.png" in page
