"""The gallery: what of the list it shows, its pages and addresses, and one output large with its neighbours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from integration.monitor_fixtures import HOSTILE, Document, Life, read
from plans import recorded

from app import keys
from harness import eventually

if TYPE_CHECKING:
    from aiohttp.test_utils import TestClient

GALLERY = "/monitor/?view=gallery"
FEW = {"prompt": "a red fox", "user_id": "ann", "checkpoint_model": "xl.safetensors"}


def words(page: Document) -> str:
    return " ".join(page.text.split())


def shots(page: Document) -> list[str]:
    """Return job and output of each tile, in the order of the page; of a job at work the job alone."""
    return [link["id"].removeprefix("shot-") for link in page.all("a", class_="shot")]


def way(page: Document, rel: str) -> str | None:
    """Return where the link leads, as job/outputs/index; None without one."""
    links = {urlsplit(link["href"]).path.removeprefix("/monitor/jobs/") for link in page.all("a", rel=rel)}
    assert len(links) < 2
    return links.pop() if links else None


def way_back(page: Document) -> str:
    (link,) = page.all("a", **{"aria-keyshortcuts": "Escape"})
    return link["href"]


async def done(life: Life, *kinds: str, **changes: Any) -> int:
    return (await life.complete(await life.execute(**changes), *kinds)).job_id


async def test_each_output_is_a_tile_newest_job_first_and_jobs_without_are_left_out(client, life):
    one = await done(life, prompt="a lighthouse")
    await life.fail(await life.execute())
    three = await done(life, "image", "video", "audio", prompt="a ship")
    withdrawn = await life.submit()
    await client.app[keys.CONTROL].cancel(withdrawn, None, "test")
    running = (await life.execute(prompt="night market")).job_id
    await life.submit()
    page = await read(client, GALLERY)
    assert shots(page) == [f"{running}", f"{three}-0", f"{three}-1", f"{three}-2", f"{one}-0"]
    assert page.jobs == [running, three, one]
    assert "1–3 of 3 jobs, newest first" in page.text
    links = [link["href"] for link in page.all("a", class_="shot")]
    assert links[1:] == [f"/monitor/jobs/{three}/outputs/{index}" for index in range(3)] + [
        f"/monitor/jobs/{one}/outputs/0"
    ]
    assert links[0] == f"/monitor/jobs/{running}"
    pictures = page.all("img")
    assert [picture["alt"] for picture in pictures] == ["a ship", "a lighthouse"]
    for picture in pictures:
        answer = await client.get(picture["src"])
        assert (answer.status, answer.content_type) == (200, "image/webp")
    for said in ("1 of /3", "▶ video 2 of /3", "audio a ship", f"Job {running}: night market", "running"):
        assert said in words(page), said
    assert [link["aria-current"] for link in page.all("a", href=GALLERY)] == ["true", "page", "true"]
    # What acts on ticked rows belongs to the list.
    assert not page.all("form", id="bulk")
    assert not page.all("input", name="job")


async def test_a_job_at_work_shows_its_live_picture_until_its_outputs_take_its_place(client, life):
    claim = await life.execute()
    await client.app[keys.PREVIEWS].put(claim.job_id, 1, 7, b"picture")
    await life.progress(claim, 61, {"id": "3", "type": "KSampler", "value": 13, "max": 20})

    async def told() -> bool:
        return "61 % KSampler 13/20" in words(await read(client, GALLERY))

    await eventually(told)
    (picture,) = (await read(client, GALLERY)).all("img", class_="preview")
    assert picture["src"] == f"/monitor/jobs/{claim.job_id}/preview?n=7"
    assert picture["data-preview"] == str(claim.job_id)
    await life.complete(claim, "image", "image")
    page = await read(client, GALLERY)
    assert shots(page) == [f"{claim.job_id}-0", f"{claim.job_id}-1"]
    assert not page.all("img", class_="preview")


async def test_the_switch_keeps_filters_order_size_and_place_and_the_filters_keep_the_view(client, life):
    for _ in range(30):
        await done(life, **FEW)
    query = {"status": "completed", "q": "FOX", "user": "ann", "size": "25", "sort": "-updated_at"}
    page = await read(client, f"/monitor/?{urlencode(query)}")
    older = page.all("a", rel="next")[0]["href"]
    second = await read(client, older)

    def switch(of: Document) -> dict[str, str]:
        """Where each view's link leads, of the links that keep the place."""
        addresses = [link["href"] for link in of.all("a") if "after=" in link.get("href", "") and "rel" not in link]
        return {"gallery" if "view=gallery" in address else "list": address for address in addresses}

    gallery = await read(client, switch(second)["gallery"])
    assert gallery.jobs == second.jobs
    assert (await read(client, switch(gallery)["list"])).jobs == second.jobs
    fields = {each["name"]: each["value"] for each in gallery.all("input", type="hidden") if each["name"] != "csrf"}
    assert fields == {"view": "gallery", "status": "completed", "size": "25", "sort": "-updated_at"}
    chips = [link["href"] for link in gallery.all("a", class_="chip")]
    assert len(chips) == 2
    for link in chips + [link["href"] for link in gallery.all("a") if "sort=updated_at" in link.get("href", "")]:
        assert parse_qs(urlsplit(link).query)["view"] == ["gallery"], link


async def test_filters_and_orders_hold_in_the_gallery(client, life):
    fox = await done(life, **FEW)
    ship = await done(life, prompt="a ship", user_id="bob")
    running = (await life.execute(**FEW)).job_id
    for query, wanted in (
        ("&q=fox", [running, fox]),
        ("&user=bob", [ship]),
        ("&model=xl.safetensors&status=completed", [fox]),
        ("&status=active", [running]),
        ("&sort=created_at", [fox, ship, running]),
    ):
        assert (await read(client, GALLERY + query)).jobs == wanted, query


@pytest.mark.parametrize("status", ["failed", "cancelled", "pending"])
async def test_of_jobs_that_leave_nothing_it_says_so_and_leads_on(client, life, status):
    await life.fail(await life.execute())
    await done(life)
    page = await read(client, f"{GALLERY}&status={status}")
    assert shots(page) == []
    assert f"Jobs that are {status} leave no pictures. Show the list or all pictures" in words(page)
    assert page.all("a", href=f"/monitor/?status={status}")
    assert not page.all("div", class_="shots")


async def test_an_unknown_view_is_refused(client):
    assert "That did not work" in (await read(client, "/monitor/?view=wall", status=422)).text


async def test_without_javascript_older_and_newer_show_each_job_once_while_new_ones_arrive(client, life):
    old = [await done(life) for _ in range(60)]
    page, seen = await read(client, f"{GALLERY}&size=25"), []
    while True:
        seen += page.jobs
        await done(life)
        links = page.all("a", rel="next")
        if not links:
            break
        assert page.all("a", rel="next", class_="button")
        page = await read(client, links[0]["href"])
    assert seen == old[::-1]
    assert len(page.jobs) == 10
    newer = await read(client, page.all("a", rel="prev")[0]["href"])
    assert newer.jobs == old[34:9:-1]


async def test_a_page_of_jobs_that_left_nothing_still_leads_on(client, life):
    picture = await done(life)
    for _ in range(25):
        claim = await life.execute()
        await life.store.saving(claim)
        await life.store.complete(claim, [])
    page = await read(client, f"{GALLERY}&size=25")
    assert shots(page) == []
    assert "Of the jobs of this page none has left anything, and none runs: there are more." in words(page)
    assert (await read(client, page.all("a", rel="next")[0]["href"])).jobs == [picture]


async def test_a_page_takes_no_more_statements_the_more_tiles_it_has(client, life):
    async def statements() -> int:
        async with recorded(client.app[keys.DATABASE]) as seen:
            await read(client, GALLERY)
        return len(seen)

    for _ in range(2):
        await done(life)
    await statements()
    few = await statements()
    more = 12
    for _ in range(more):
        await done(life, "image", "image", "image", "video")
    # Figures around the list are read again when they are old, which takes one or two.
    assert await statements() < few + more


async def test_a_fragment_brings_the_jobs_at_work_that_have_left_the_page(client, life):
    failed = await life.fail(await life.execute())
    here = await done(life)
    part = await read(client, f"{GALLERY}&keep={failed.job_id},{here}", **{"X-Fragment": "1"})
    assert part.phases == {here: "completed", failed.job_id: "failed"}
    assert shots(part) == [f"{here}-0", f"{failed.job_id}"]


async def test_one_output_large_says_what_was_asked_for(client, life):
    sampler = {"seed": 18446744073709551615, "steps": 20}
    job = await done(life, "image", "image", prompt="a lighthouse\nat dusk", sampler_params=sampler, width=832)
    path = f"/monitor/jobs/{job}/outputs/1"
    page = await read(client, path)
    (picture,) = page.all("img")
    assert picture["alt"] == "a lighthouse at dusk"
    assert (picture["width"], picture["height"]) == ("64", "64")
    answer = await client.get(picture["src"])
    assert (answer.status, answer.content_type) == (200, "image/png")
    (download,) = [link for link in page.all("a") if "download" in link]
    assert download["href"] == picture["src"]
    for said in ("a lighthouse at dusk", "Seed18446744073709551615", "Steps20", "Size832 ×", "64 × 64", "2 of 2"):
        assert said in words(page), said
    assert page.all("a", href=f"/monitor/jobs/{job}")
    back = way_back(page)
    assert back == f"{GALLERY}#shot-{job}-1"
    assert f"shot-{job}-1" in [link["id"] for link in (await read(client, back)).all("a", class_="shot")]


async def test_videos_sounds_and_texts_have_what_plays_or_shows_them(client, life):
    job = await done(life, "video", "audio", "text", "file")
    for index, tag in enumerate(("video", "audio", "pre")):
        page = await read(client, f"/monitor/jobs/{job}/outputs/{index}")
        (player,) = page.all(tag)
        assert tag == "pre" or ("controls" in player and player["src"].endswith(f"/outputs/{index}")), tag
    assert "words & <words>" in page.text
    assert "Browsers cannot show this file: download it." in words(await read(client, f"/monitor/jobs/{job}/outputs/3"))


async def test_next_and_previous_go_through_outputs_and_jobs_of_the_same_list(client, life):
    first = await done(life, **FEW)
    await done(life, user_id="bob")
    second = await done(life, "image", "image", **FEW)
    await life.fail(await life.execute(**FEW))
    third = await done(life, **FEW)
    await life.execute(**FEW)
    order = [f"{third}/outputs/0", f"{second}/outputs/0", f"{second}/outputs/1", f"{first}/outputs/0"]
    for sort, places in (("", order), ("&sort=-updated_at", order)):
        for place, path in enumerate(places):
            page = await read(client, f"/monitor/jobs/{path}?user=ann{sort}")
            assert way(page, "prev") == (places[place - 1] if place else None), path
            assert way(page, "next") == (places[place + 1] if place + 1 < len(places) else None), path
            for rel in ("prev", "next"):
                for link in page.all("a", rel=rel):
                    assert urlsplit(link["href"]).query == f"user=ann{sort}"
    page = await read(client, f"/monitor/jobs/{first}/outputs/0?user=ann&sort=created_at")
    assert (way(page, "prev"), way(page, "next")) == (None, f"{second}/outputs/0")


async def test_neighbours_are_found_past_jobs_that_left_nothing(client, life):
    first = await done(life)
    for _ in range(5):
        claim = await life.execute()
        await life.store.saving(claim)
        await life.store.complete(claim, [])
    last = await done(life)
    assert way(await read(client, f"/monitor/jobs/{last}/outputs/0"), "next") == f"{first}/outputs/0"
    assert way(await read(client, f"/monitor/jobs/{first}/outputs/0"), "prev") == f"{last}/outputs/0"


async def test_the_way_back_leads_to_a_page_that_shows_the_tile(client, life):
    jobs = [await done(life, **FEW) for _ in range(30)]
    for job, first_page in ((jobs[-1], True), (jobs[5], True), (jobs[4], False), (jobs[0], False)):
        page = await read(client, f"/monitor/jobs/{job}/outputs/0?q=fox&user=ann&size=25")
        back = way_back(page)
        assert back.endswith(f"#shot-{job}-0")
        # What is searched for is not counted, so a page that begins with the job is always one of those.
        grid = await read(client, back)
        assert job in grid.jobs
        page = await read(client, f"/monitor/jobs/{job}/outputs/0?user=ann&size=25")
        back = way_back(page)
        assert ("after=" not in back) == first_page
        assert job in (await read(client, back)).jobs


async def test_an_output_leads_to_the_form_that_sends_unless_the_page_is_read_only(client, life, monkeypatch):
    job = await life.complete(await life.execute(), "image", "audio")
    path = f"/monitor/jobs/{job.job_id}/outputs"

    async def sending(index: int) -> list[str]:
        return [each for each in (await read(client, f"{path}/{index}")).addresses if each.startswith("/monitor/new")]

    new, again = "/monitor/new", f"/monitor/new?again={job.job_id}"
    assert await sending(0) == [new, f"/monitor/new?image=content:{job.content_id}:0", again]
    assert await sending(1) == [new, again]
    monkeypatch.setattr(client.app[keys.ACCESS], "read_only", True)
    assert await sending(0) == []


async def test_an_output_tells_what_its_job_was_asked_for_as_the_job_does(client, life):
    job = await done(life, prompt="a <b>ship</b>", not_before="2026-01-02T03:04:05Z", metadata={"of": "<i>"})
    told = [
        re.search(r"<h2 id=.inputs-title.*?</table>", await (await client.get(path)).text(), re.S)[0]
        for path in (f"/monitor/jobs/{job}", f"/monitor/jobs/{job}/outputs/0")
    ]
    assert told[0] == told[1]
    assert 'data-stamp="">2026-01-02 03:04:05</time>' in told[0]
    assert "a &lt;b&gt;ship&lt;/b&gt;" in told[0]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/monitor/jobs/{}/outputs/1", "Job {} has no output 1."),
        ("/monitor/jobs/999/outputs/0", "There is no job 999."),
        (f"/monitor/jobs/1/outputs/{'9' * 30}", "There is no"),
    ],
    ids=["output", "job", "number"],
)
async def test_an_output_that_is_not_there_is_a_friendly_page(client, life, path, said):
    job = await done(life)
    page = await read(client, path.format(job), status=404)
    assert said.format(job) in page.text


async def test_hostile_prompts_are_texts_in_tiles_and_in_the_large_view(client: TestClient[Any, Any], life: Life):
    job = await done(life, "image", "audio", prompt=HOSTILE, user_id=HOSTILE[:200], checkpoint_model=HOSTILE[:200])
    await life.execute(prompt=HOSTILE)
    pages = [await read(client, GALLERY)]
    pages += [await read(client, f"/monitor/jobs/{job}/outputs/{index}") for index in range(2)]
    for page in pages:
        assert page.text.count("<script>alert(1)</script>") > 1
        for tag, attributes in page.elements:
            assert tag != "script" or attributes["src"].startswith("/monitor/static/")
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
            for name in ("href", "src", "action"):
                assert attributes.get(name, "/").startswith(("/", "#"))
    assert pages[0].all("img")[0]["alt"].startswith("<script>alert(1)</script>\"'>")
