"""Acting on many jobs: what was ticked, or what a list held when its reader was asked, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from integration.monitor_fixtures import Document, Life, act, read
from sqlalchemy import text

from app.web.requests import MAX_BULK


async def said(client: Any, answer: Any) -> str:
    """Follow the answer of a form and return what the page says."""
    assert answer.status == 303, await answer.text()
    page = Document(await (await client.get(answer.headers["Location"])).text())
    return " ".join(page.text.split())


async def phases(life: Life, job_ids: list[int]) -> list[str]:
    return [str((await life.store.get(job_id)).phase) for job_id in job_ids]


async def post_ticked(client: Any, action: str, job_ids: list[int], **fields: str) -> Any:
    return await act(client, f"/monitor/bulk/{action}", jobs=",".join(map(str, job_ids)), **fields)


async def confirm(client: Any, page: Document) -> Any:
    """Send the form of the page that asks."""
    (form,) = [found for found in page.all("form") if found["action"].startswith("/monitor/bulk/")]
    fields = {found["name"]: found["value"] for found in page.all("input", type="hidden")}
    return await client.post(form["action"], data=fields, allow_redirects=False)


async def test_what_was_ticked_is_cancelled_and_the_rest_is_said(client, life, database):
    running = await life.execute()
    ended = await life.fail(await life.execute())
    first, second, third = [await life.submit() for _ in range(3)]
    chosen = [running.job_id, ended.job_id, first, third]
    answer = await post_ticked(client, "cancel", chosen, back="/monitor/?status=active")
    assert answer.headers["Location"] == "/monitor/?status=active"
    told = await said(client, answer)
    assert "Of 4 jobs: 2 cancelled, 1 cancelling until ComfyUI confirms it, 1 not any more." in told
    assert await phases(life, [*chosen, second]) == ["cancelling", "failed", "cancelled", "cancelled", "queued"]
    async with database.transaction() as session:
        rows = list(await session.execute(text("SELECT action, target, outcome, data FROM audit_log")))
    assert [tuple(row)[:3] for row in rows] == [("cancel", "4 selected", "partly")]
    assert rows[0].data == {"jobs": chosen, "acted_on": [first, third], "done": 2, "cancelling": 1, "refused": 1}


async def test_the_undo_of_a_bulk_action_is_for_those_to_whom_it_was_done_and_no_others(client, life):
    running, ended = await life.execute(), await life.fail(await life.execute())
    first, second, untouched = [await life.submit() for _ in range(3)]
    await act(client, f"/monitor/jobs/{untouched}/cancel")
    chosen = [running.job_id, ended.job_id, first, second]
    page = Document(await (await client.get(await after(client, "cancel", chosen))).text())
    await press_undo(client, page)
    found = await phases(life, [*chosen, untouched])
    assert found == ["cancelling", "failed", "queued", "queued", "cancelled"]
    page = await read(client, "/monitor/")
    assert "Of 2 jobs: 2 wait for another attempt" in page.text
    await press_undo(client, page)
    assert await phases(life, [first, second]) == ["cancelled", "cancelled"]


async def test_a_bulk_action_that_did_nothing_has_no_undo(client, life):
    ended = await life.fail(await life.execute())
    page = Document(await (await client.get(await after(client, "cancel", [ended.job_id]))).text())
    assert "1 not any more" in page.text
    assert not page.all("form", class_="undo")


@pytest.mark.parametrize("entry", ["0", "999", "x", "-1", "9" * 30])
async def test_an_undo_of_no_entry_does_nothing(client, life, entry):
    job_id = await life.submit()
    answer = await act(client, "/monitor/bulk/cancel", entry=entry)
    assert "nothing was done" in await said(client, answer)
    assert await phases(life, [job_id]) == ["queued"]


async def after(client: Any, action: str, job_ids: list[int]) -> str:
    """Do it to these jobs, and return where that leads."""
    location: str = (await post_ticked(client, action, job_ids)).headers["Location"]
    return location


async def press_undo(client: Any, page: Document) -> None:
    (form,) = page.all("form", class_="undo")
    (entry,) = page.all("input", name="entry")
    await act(client, form["action"], entry=entry["value"])


async def test_the_checkboxes_of_a_page_make_a_form_without_javascript(client, life):
    jobs = [await life.submit() for _ in range(2)]
    page = await read(client, "/monitor/")
    (form,) = page.all("form", id="bulk")
    ticks = [found for found in page.all("input", name="job") if found["form"] == "bulk"]
    assert [int(tick["value"]) for tick in ticks] == jobs[::-1]
    assert {button["formaction"] for button in page.all("button") if "formaction" in button} == {
        f"/monitor/bulk/{action}" for action in ("cancel", "retry", "delete")
    }
    assert (form["method"], ticks[0]["data-can"]) == ("post", "cancel ")
    await act(client, "/monitor/bulk/cancel", job=str(jobs[0]))
    assert await phases(life, jobs) == ["cancelled", "queued"]


async def test_a_retry_of_many_keeps_their_seeds(client, life):
    jobs = [await life.fail(await life.execute()) for _ in range(2)]
    waiting = await life.submit()
    told = await said(client, await post_ticked(client, "retry", [jobs[0].job_id, jobs[1].job_id, waiting]))
    assert "Of 3 jobs: 2 wait for another attempt, 1 could not be retried." in told
    for job in jobs:
        again = await life.store.whole(job.job_id)
        assert (again.attempt, again.sampler_params) == (2, job.sampler_params)


async def test_deleting_asks_first_and_then_does_it(client, life):
    jobs = [await life.complete(await life.execute()) for _ in range(2)]
    waiting = await life.submit()
    job_ids = [job.job_id for job in jobs] + [waiting]
    answer = await post_ticked(client, "delete", job_ids, back="/monitor/?status=completed")
    page = Document(await answer.text())
    assert answer.status == 200
    assert "Delete 3 jobs?" in page.text
    assert await phases(life, job_ids) == ["completed", "completed", "queued"]
    told = await said(client, await confirm(client, page))
    assert "Of 3 jobs: 2 deleted with their files, 1 could not be." in told
    assert (await read(client, "/monitor/")).jobs == [waiting]


async def test_all_that_match_are_those_that_were_there_when_the_list_was_read(client, life, database):
    failed = await life.fail(await life.execute(user_id="ann"))
    ann = [await life.submit(user_id="ann") for _ in range(3)]
    bob = await life.submit(user_id="bob")
    page = await read(client, "/monitor/?user=ann")
    (link,) = [found for found in page.all("a") if found.get("data-key") == "all-cancel"]
    assert "Cancel all 3 that match" in page.text
    later = await life.submit(user_id="ann")
    question = await read(client, link["href"])
    assert "Cancel 3 jobs?" in question.text
    assert "user “ann”" in question.text
    assert await phases(life, ann) == ["queued"] * 3
    between = await life.submit(user_id="ann")
    answer = await confirm(client, question)
    assert answer.headers["Location"] == "/monitor/?user=ann"
    assert "Of 3 jobs: 3 cancelled" in await said(client, answer)
    assert await phases(life, [*ann, bob, later, between]) == ["cancelled"] * 3 + ["queued"] * 3
    assert await phases(life, [failed.job_id]) == ["failed"]
    async with database.transaction() as session:
        assert (await session.scalar(text("SELECT target FROM audit_log"))) == "3 jobs: user “ann”"


async def test_each_action_is_offered_for_what_it_can_be_done_to(client, life):
    done = await life.complete(await life.execute())
    failed = await life.fail(await life.execute())
    waiting = await life.submit()

    async def offered(path: str) -> dict[str, str]:
        page = await read(client, path)
        links = {
            found["data-key"]: found["href"] for found in page.all("a") if found.get("data-key", "").startswith("all-")
        }
        return {name.removeprefix("all-"): link for name, link in links.items()}

    links = await offered("/monitor/")
    meant = {"cancel": [waiting], "retry": [failed.job_id], "delete": [done.job_id, failed.job_id]}
    assert links.keys() == meant.keys()
    for action, job_ids in meant.items():
        question = await read(client, links[action])
        assert [int(each) for each in question.all("input", name="jobs")[0]["value"].split(",")] == job_ids
    assert (await offered("/monitor/?status=completed")).keys() == {"delete"}
    assert (await offered("/monitor/?status=active")).keys() == {"cancel"}
    nothing = await read(client, f"/monitor/bulk/cancel?status=completed&until_id={waiting}")
    assert "Nothing to cancel" in nothing.text


async def test_of_more_than_can_be_done_at_once_the_oldest_are_and_the_page_says_so(client, life, database):
    first = await life.submit()
    async with database.transaction() as session:
        columns = [
            name
            for name in await session.scalars(
                text("SELECT column_name FROM information_schema.columns WHERE table_name = 'generation_jobs'")
            )
            if name != "id"
        ]
        listed = ", ".join(columns)
        await session.execute(
            text(
                f"INSERT INTO generation_jobs ({listed}) SELECT {listed} FROM generation_jobs, "  # noqa: S608
                f"generate_series(1, {MAX_BULK + 4}) WHERE id = :id"
            ),
            {"id": first},
        )
    page = await read(client, "/monitor/")
    assert "Cancel all 1,005" in page.text
    (link,) = [found for found in page.all("a") if found.get("data-key") == "all-cancel"]
    question = await read(client, link["href"])
    assert "Cancel 1,000 jobs?" in question.text
    assert "There are 5 more: these are the oldest." in question.text
    assert len(question.all("input", name="jobs")[0]["value"].split(",")) == MAX_BULK


@pytest.mark.parametrize("jobs", ["x", "1,-2", "9" * 30, ",".join(map(str, range(1001))), "٣"])
async def test_a_form_that_names_no_jobs_that_could_be_is_refused(client, jobs):
    answer = await act(client, "/monitor/bulk/cancel", jobs=jobs)
    assert answer.status == 400
    assert "One form acts on at most 1,000 jobs" in await answer.text()


async def test_without_a_tick_nothing_is_done_and_the_page_says_so(client, life):
    job = await life.submit()
    assert "nothing was done" in await said(client, await act(client, "/monitor/bulk/cancel"))
    assert await phases(life, [job]) == ["queued"]


@pytest.mark.parametrize("query", ["", "until_id=x", "until_id=-1", "until_id=5&status=x"])
async def test_a_question_without_its_scope_is_refused(client, query):
    await read(client, f"/monitor/bulk/cancel?{query}", status=422)


async def test_a_bulk_action_is_only_for_our_own_form_and_no_get(client, life):
    job = await life.submit()
    answer = await client.post("/monitor/bulk/cancel", data={"jobs": str(job)})
    assert answer.status == 403
    answer = await act(client, "/monitor/bulk/cancel", {"Origin": "https://evil.example"}, jobs=str(job))
    assert answer.status == 403
    assert (await client.get(f"/monitor/bulk/cancel?until_id={job}&jobs={job}&asked=yes")).status == 200
    assert await phases(life, [job]) == ["queued"]
