"""Sending a job from the page: what the form holds, what becomes of it, and what is said of what is wrong."""

from __future__ import annotations

import re
from typing import Any

import pytest
from integration.monitor_fixtures import HOSTILE, Document, beat, entries, read
from integration.new_job_forms import FILLED, FOX, NEW, check, job_of, jobs, picture, refused, send, value
from integration.offers import XL, loader, tell

from app import keys
from app.domain.errors import QueueUnavailable
from app.main import create_app, create_monitor_app
from app.web import body_intake
from harness import eventually


async def test_a_filled_in_form_becomes_a_job_and_leads_to_it(client, life, database):
    page = await read(client, NEW)
    (form,) = [each for each in page.all("form") if each["action"] == NEW]
    assert (form["method"], form["enctype"]) == ("post", "multipart/form-data")
    first = next(attributes for tag, attributes in page.elements if tag == "input")
    assert first["name"] == "csrf"
    more = {"negative_prompt": "blur\r\nnoise", "seed": str(2**64 - 1), "cfg": "3,5", "batch_size": "2"}
    more["priority"] = "-3"
    loras = {"lora_1_name": "", "lora_2_name": "b.safetensors", "lora_2_strength": "0.4"}
    answer = await send(client, FILLED | more | loras)
    job = await life.store.whole(job_of(answer))
    assert (job.user_id, job.prompt, job.negative_prompt) == ("ann", "a red fox", "blur\nnoise")
    assert (job.width, job.height, job.batch_size, job.priority, job.phase) == (64, 64, 2, -3, "queued")
    assert job.sampler_params["seed"] == 2**64 - 1
    assert (job.sampler_params["cfg"], job.sampler_params["steps"]) == (3.5, 4)
    assert job.lora_models == [{"name": "b.safetensors", "strength_model": 0.4, "strength_clip": 0.4}]
    assert (await entries(database))[-1][1:] == ("send", f"job {job.job_id}", "sent")
    shown = await (await client.get(answer.headers["Location"])).text()
    assert f"Job {job.job_id} is sent." in shown


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({}, (832, 1216)),
        ({"size": "1216x832"}, (1216, 832)),
        ({"size": "1024x1024", "width": "512"}, (512, 1024)),
        ({"size": "7x7", "width": "512"}, (512, 1216)),
    ],
)
async def test_the_own_size_counts_over_the_one_that_is_chosen(client, life, fields, made):
    job = await life.store.whole(job_of(await send(client, FOX | fields)))
    assert (job.width, job.height) == made


async def test_it_works_as_a_plain_form_without_files_too(client, life):
    await read(client, "/monitor/workers")
    token = client.session.cookie_jar.filter_cookies(client.make_url("/monitor/"))["monitor_csrf"].value
    answer = await client.post(NEW, data=FILLED | {"csrf": token}, allow_redirects=False)
    assert (await life.store.whole(job_of(answer))).prompt == "a red fox"


async def test_every_fault_is_said_at_its_field_and_everything_stays_filled_in(client, database):
    wrong = {
        "user_id": " ", "prompt": "", "steps": "many", "cfg": "31", "seed": "-2", "width": "5000", "denoise": "2",
        "batch_size": "9", "priority": "1e3", "lora_1_name": "", "lora_3_name": "x", "lora_3_strength": "strong",
        "sampler_name": "s" * 65, "negative_prompt": "kept",
    }  # fmt: skip
    page, said = await refused(await send(client, wrong))
    expected = {
        "user_id", "prompt", "steps", "cfg", "seed", "width", "denoise", "batch_size", "priority", "lora_3_strength",
        "sampler_name",
    }  # fmt: skip
    assert said.keys() == expected
    assert (said["user_id"], said["prompt"][:14]) == ("This is needed.", "This is needed")
    assert said["steps"] == "This is to be a whole number."
    assert "less than or equal to 30" in said["cfg"]
    for name in ("steps", "cfg", "width", "lora_3_strength"):
        assert value(page, name) == wrong[name]
    assert "kept" in page.text
    assert "Not sent: 11 things to change" in page.text
    assert await jobs(database) == 0


async def test_a_text_that_cannot_be_kept_is_refused_at_its_field(client, database):
    _, said = await refused(await send(client, FILLED | {"prompt": "a\0b"}))
    assert "must not contain" in said["prompt"]
    assert await jobs(database) == 0


async def test_what_no_backend_has_is_said_at_its_field_with_what_may_be_meant(service, database):
    lora = {"lora_2_name": "none.safetensors", "lora_2_strength": "200"}
    fields = FILLED | lora | {"checkpoint_model": "sd_xl_base_1.1.safetensors", "sampler_name": "eular"}
    _, said = await refused(await send(service.client, fields | {"lora_2_strength": "1", "backend": "gpu-b"}))
    assert "gpu-b" in said["backend"]
    _, said = await refused(await send(service.client, fields))
    assert said.keys() == {"lora_2_strength"}
    _, said = await refused(await send(service.client, fields | {"lora_2_strength": "1"}))
    assert said.keys() == {"checkpoint_model", "sampler_name", "lora_2_name"}
    assert f"Did you mean {XL}?" in said["checkpoint_model"]
    assert await jobs(database) == 0


async def test_there_is_to_choose_what_backends_have(client):
    async def offered(tag: str) -> Document | None:
        page = await read(client, NEW)
        return page if [each for each in page.all(tag) if each.get("name") == "checkpoint_model"] else None

    assert await offered("input")
    await tell(client, "gpu-a", loader(XL, "other.safetensors"))
    page = await eventually(lambda: offered("select"))
    assert "The default" in page.text
    assert f"{XL}\n" in page.text
    await tell(client, "gpu-a", loader(*(f"{number}.safetensors" for number in range(301))))
    page = await eventually(lambda: offered("input"))
    (field,) = page.all("input", name="checkpoint_model")
    assert page.all("datalist", id=field["list"])
    assert page.all("option", value="300.safetensors")


async def test_a_picture_is_uploaded_and_stays_when_something_else_is_wrong(client, life, database):
    page, said = await refused(await send(client, FILLED | {"prompt": ""}, {"image_file": picture()}))
    assert said.keys() == {"prompt"}
    assert await jobs(database) == 0
    reference = value(page, "image")
    assert re.fullmatch(r"upload:[0-9a-f]{32}", reference)
    (thumbnail,) = [each for each in page.all("img") if "/uploads/" in each["src"]]
    assert (await client.get(thumbnail["src"])).content_type == "image/png"
    job = await life.store.whole(job_of(await send(client, FILLED | {"image": reference})))
    assert job.image == {"upload": reference.removeprefix("upload:")}
    # Its size is the picture's own unless it is given.
    answer = await send(client, FOX | {"image": reference}, {"mask_file": picture("white")})
    job = await life.store.whole(job_of(answer))
    assert (job.width, job.height, job.sampler_params["denoise"]) == (96, 64, 0.75)
    assert job.mask is not None
    without = FOX | {"image": reference, "image_remove": "yes"}
    assert (await life.store.whole(job_of(await send(client, without)))).image is None


async def test_a_file_that_is_no_picture_too_large_or_nobodys_is_refused_at_its_field(
    client, database, monkeypatch, settings
):
    for content, said_ in ((b"MZ no picture", "image"), (picture()[:60], "image")):
        _, said = await refused(await send(client, FILLED, {"image_file": content}))
        assert said.keys() == {said_}
    _, said = await refused(await send(client, FILLED | {"user_id": ""}, {"image_file": picture()}))
    assert "Choose the file again" in said["image"]
    monkeypatch.setattr(client.app[keys.UPLOADS], "max_bytes", 1000)
    _, said = await refused(await send(client, FILLED, {"image_file": b"x" * 5000, "mask_file": b""}))
    assert "more than 1000 bytes" in said["image"]
    assert await jobs(database) == 0
    assert not [path for path in settings.storage_path.rglob("*") if path.is_file()]


async def test_a_form_larger_than_all_that_it_may_hold_is_not_read(client, monkeypatch):
    monkeypatch.setattr(client.app[keys.UPLOADS], "max_bytes", 1000)
    monkeypatch.setattr(body_intake, "MAX_FIELDS_BYTES", 1000)
    answer = await send(client, FILLED, {"image_file": b"x" * 20_000})
    assert answer.status == 413
    answer = await client.post(NEW, data={"csrf": "x" * 70_000})
    assert answer.status == 413


async def test_an_output_is_begun_with_and_taken_over_for_another_user(client, life):
    done = await life.complete(await life.execute(user_id="bob"))
    page = await read(client, f"{NEW}?image=content:{done.content_id}:0")
    assert value(page, "image") == f"content:{done.content_id}:0"
    assert value(page, "user_id") == "bob"
    assert page.all("img", src=f"/api/v1/contents/{done.content_id}/outputs/0/thumbnail")
    fields = {"prompt": "again", "image": f"content:{done.content_id}:0"}
    job = await life.store.whole(job_of(await send(client, fields | {"user_id": "bob"})))
    assert job.image is not None
    assert (job.image["content"], job.image["output"]) == (done.content_id, 0)
    job = await life.store.whole(job_of(await send(client, fields | {"user_id": "ann"})))
    upload = (await client.app[keys.UPLOAD_STORE].read([job.image["upload"]]))[job.image["upload"]]
    assert (upload.user_id, upload.width) == ("ann", 64)
    fields["image"] = f"upload:{upload.upload_id}"
    job = await life.store.whole(job_of(await send(client, fields | {"user_id": "eve"})))
    assert job.image["upload"] != upload.upload_id


@pytest.mark.parametrize("reference", ["content:999:0", "upload:none", "file:///etc/passwd", "content:1", HOSTILE])
async def test_a_picture_that_is_not_there_is_said_and_not_sent(client, database, reference):
    page, said = await refused(await client.get(NEW, params={"image": reference}), 200)
    assert said == {"image": "This picture is no longer there. Choose another one."}
    assert not [each for each in page.all("input", type="hidden") if each["name"] == "image"]
    _, said = await refused(await send(client, FILLED | {"image": reference}))
    assert said.keys() == {"image"}
    assert await jobs(database) == 0


async def test_again_fills_in_what_a_job_asked_for(client, life):
    lora = {"name": "a.safetensors", "strength_model": 0.5, "strength_clip": 0.7}
    sampler = {"seed": 2**63 + 1, "steps": 9, "cfg": 4.5, "denoise": 0.9}
    asked: dict[str, Any] = {
        "prompt": 'an "old" bridge', "negative_prompt": "rain", "user_id": "bob", "width": 1024, "height": 1024,
        "lora_models": [lora, *({"name": f"{n}"} for n in range(4))], "sampler_params": sampler, "priority": 5,
        "metadata": {"a": "b"}, "params": {"c": 1}, "max_attempts": 2,
    }  # fmt: skip
    first = await life.submit(**asked)
    page = await read(client, f"{NEW}?again={first}")
    assert page.all("a", href=f"/monitor/jobs/{first}")
    fields = {each["name"]: each["value"] for each in page.all("input") if each.get("value") and "name" in each}
    fields |= {"prompt": asked["prompt"], "negative_prompt": "rain", "size": "1024x1024"}
    del fields["csrf"]
    second = await life.store.whole(job_of(await send(client, fields)))
    one = await life.store.whole(first)
    names = ("prompt", "negative_prompt", "user_id", "width", "height", "lora_models", "sampler_params", "priority")
    assert [getattr(second, name) for name in names] == [getattr(one, name) for name in names]
    assert (second.metadata, second.params, second.max_attempts) == ({"a": "b"}, {"c": 1}, 2)
    (link,) = (await read(client, f"/monitor/jobs/{first}")).all("a", id="again")
    assert link["href"] == f"{NEW}?again={first}"
    for nothing in ("999", "x", "9" * 30):
        await read(client, f"{NEW}?again={nothing}", 404)


async def test_one_form_sent_twice_sends_one_job_and_one_that_was_changed_another(client, life, database):
    press = value(await read(client, NEW), "press")
    first = job_of(await send(client, FILLED | {"press": press}))
    answer = await send(client, FILLED | {"press": press})
    assert job_of(answer) == first
    assert f"sent already, as job {first}" in await (await client.get(answer.headers["Location"])).text()
    assert job_of(await send(client, FILLED | {"press": press, "prompt": "a ship"})) != first
    assert await jobs(database) == 2


async def test_of_a_form_without_its_token_nothing_is_read(client, database, settings):
    for token in ("", "A" * 43):
        answer = await send(client, FILLED, {"image_file": picture()}, token=token)
        assert answer.status == 403
    answer = await send(client, FILLED, {"image_file": picture()}, Origin="https://evil.example")
    assert answer.status == 403
    assert await jobs(database) == 0
    assert not [path for path in settings.storage_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("multipart/form-data", b"", 400),
        ("multipart/form-data; boundary=x", b"nonsense", 400),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n", 403),
        ("text/plain", b"csrf=1", 403),
    ],
)
async def test_what_is_no_form_is_refused_as_a_page(client, kind, body, status):
    await read(client, "/monitor/workers")
    answer = await client.post(NEW, data=body, headers={"Content-Type": kind})
    assert (answer.status, answer.content_type) == (status, "text/html")


async def test_too_many_fields_files_or_bytes_are_refused(client, database):
    assert (await send(client, {f"a{number}": "" for number in range(1001)})).status == 400
    assert (await send(client, FILLED, {f"f{number}": b"x" for number in range(9)})).status == 400
    assert (await send(client, {"prompt": "x" * (8 * 2**20 + 1)})).status == 413
    assert await jobs(database) == 0


async def test_while_redis_is_away_the_form_stays_filled_in(client, monkeypatch):
    async def away(*_: Any, **__: Any) -> None:
        raise QueueUnavailable("The queue cannot be reached at the moment.")

    monkeypatch.setattr(client.app[keys.SUBMITTING], "submit", away)
    monkeypatch.setattr(client.app[keys.INVENTORY], "models", away)
    page, said = await refused(await send(client, FILLED | {"checkpoint_model": "x"}), 503)
    assert said == {}
    assert "Nothing was sent" in page.text
    assert value(page, "checkpoint_model") == "x"


async def test_hostile_texts_come_back_as_texts(client):
    names = ("user_id", "checkpoint_model", "sampler_name", "seed", "lora_1_name", "backend", "press", "size")
    answer = await send(client, {"prompt": HOSTILE, "again": HOSTILE} | dict.fromkeys(names, HOSTILE))
    page = Document(await answer.text())
    assert answer.status == 422
    assert HOSTILE in page.text
    assert not [each for each in page.all("script") if "src" not in each]
    assert value(page, "seed") == HOSTILE


async def test_on_a_page_that_is_read_only_there_is_no_button_and_nothing_is_sent(settings, aiohttp_client, database):
    client = await aiohttp_client(create_app(settings.model_copy(update={"monitor_read_only": True})))
    await beat(client)
    page = await read(client, NEW)
    assert "read-only" in page.text
    assert not page.all("button", class_="send")
    assert not (await read(client, "/monitor/")).all("a", href=NEW)
    assert (await send(client, FILLED)).status == 403
    assert await jobs(database) == 0


async def test_while_it_is_filled_in_it_is_told_what_would_become_of_it(service, database):
    client = service.client
    found = await check(client, FILLED | {"user_id": ""})
    assert found["faults"] == {}
    assert "It can run on standin. It would be next in the queue." in found["said"]
    found = await check(client, FILLED | {"steps": "many", "checkpoint_model": "sd_xl_base_1.1.safetensors"})
    assert found["faults"].keys() == {"steps"}
    found = await check(client, FILLED | {"checkpoint_model": "sd_xl_base_1.1.safetensors"})
    assert found["faults"].keys() == {"checkpoint_model"}
    # A picture of another user is only looked at, and a file that is chosen has not come yet.
    done = await service.run(user_id="bob")
    found = await check(client, FILLED | {"image": f"content:{done['content_id']}:0"})
    assert found["faults"] == {}
    found = await check(client, FILLED | {"image_file": "chosen", "upscale_model": "x"})
    assert found["faults"] == {}
    assert (await check(client, FILLED | {"upscale_model": "x"}))["faults"].keys() == {"upscale_model"}
    assert await client.app[keys.UPLOAD_STORE].page(None, 10, None) == []
    assert await jobs(database) == 1
    assert [each for each in await entries(database) if each[1] == "send"] == []


async def test_a_link_cannot_fill_in_an_address_that_workers_would_fetch(client):
    _, said = await refused(await client.get(NEW, params={"image": "url:http://example.com/a.png"}), 200)
    assert said.keys() == {"image"}


async def test_the_page_alone_sends_jobs_and_shows_uploads_too(settings, aiohttp_client, life, database):
    client = await aiohttp_client(create_monitor_app(settings))
    page, said = await refused(await send(client, FILLED | {"seed": "x"}, {"image_file": picture()}))
    assert said.keys() == {"seed"}
    (thumbnail,) = [each for each in page.all("img") if "/uploads/" in each["src"]]
    assert (await client.get(thumbnail["src"])).content_type == "image/png"
    job = await life.store.whole(job_of(await send(client, FILLED | {"image": value(page, "image")})))
    assert job.image is not None
    assert (await client.post("/api/v1/uploads", data=b"x")).status in (404, 405)
