"""What may be done on the page, by whom, and what is said of it."""

from __future__ import annotations

import re

import pytest
from integration.monitor_fixtures import Document, act, flash, read
from sqlalchemy import text

ACTIONS = ("cancel", "retry", "again", "delete")
HOSTILE = """<script>alert(1)</script><img src=x onerror=alert(2)>"'>{{ 123457 * 7 }}"""


async def test_a_waiting_job_is_cancelled_at_once(client, life):
    job_id = await life.submit()
    answer = await act(client, f"/monitor/jobs/{job_id}/cancel", back="/monitor/?status=pending")
    assert answer.headers["Location"] == "/monitor/?status=pending"
    assert await flash(client, answer) == f"Job {job_id} is cancelled."
    assert (await life.store.get(job_id)).phase == "cancelled"


async def test_a_running_job_is_called_cancelled_only_when_it_is(client, life):
    claim = await life.execute()
    answer = await act(client, f"/monitor/jobs/{claim.job_id}/cancel")
    said = await flash(client, answer)
    assert "cancelling" in said
    assert "cancelled" not in said
    page = await read(client, f"/monitor/jobs/{claim.job_id}")
    assert page.phases == {claim.job_id: "cancelling"}
    assert not page.all("form", action=f"/monitor/jobs/{claim.job_id}/cancel")
    await life.confirm_cancel(claim)
    assert (await read(client, f"/monitor/jobs/{claim.job_id}")).phases == {claim.job_id: "cancelled"}


async def test_a_cancel_that_comes_late_says_so(client, life):
    job = await life.complete(await life.execute())
    said = await flash(client, await act(client, f"/monitor/jobs/{job.job_id}/cancel"))
    assert "had ended before" in said


@pytest.mark.parametrize("choice", ["same", "new"])
async def test_a_retry_keeps_the_seed_or_draws_another(client, life, choice):
    job = await life.fail(await life.execute())
    said = await flash(client, await act(client, f"/monitor/jobs/{job.job_id}/retry", seed=choice))
    again = await life.store.whole(job.job_id)
    assert f"with {'the same' if choice == 'same' else 'a new'} seed" in said
    assert (again.attempt, again.phase) == (2, "queued")
    assert (again.sampler_params["seed"] == job.sampler_params["seed"]) is (choice == "same")


async def test_what_a_completed_job_asked_for_is_sent_again_with_a_new_seed(client, life):
    job = await life.complete(await life.execute())
    assert (await read(client, f"/monitor/jobs/{job.job_id}")).all("form", action=f"/monitor/jobs/{job.job_id}/again")
    said = await flash(client, await act(client, f"/monitor/jobs/{job.job_id}/again"))
    found = re.search(r"is sent again as job (\d+), with a new seed", said)
    assert found
    again = await life.store.whole(int(found[1]))
    assert again.job_id != job.job_id
    assert (again.attempt, again.phase) == (1, "queued")
    asked = [{name: getattr(each, name) for name in ("user_id", "prompt", "width", "params")} for each in (job, again)]
    assert asked[0] == asked[1]
    assert again.sampler_params["seed"] != job.sampler_params["seed"]
    assert {**again.sampler_params, "seed": 0} == {**job.sampler_params, "seed": 0}
    assert (await life.store.get(job.job_id)).phase == "completed"


async def test_one_press_sends_one_job_however_often_its_form_comes(client, life):
    job = await life.complete(await life.execute())

    async def sent(**fields: str) -> str:
        found = re.search(
            r"as job (\d+)", await flash(client, await act(client, f"/monitor/jobs/{job.job_id}/again", **fields))
        )
        assert found
        return found[1]

    first, other = "0123456789abcdef" * 2, "f" * 32
    ids = [await sent(press=press) for press in (first, first, other, "nonsense", "nonsense")]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4
    # A number that another job's press had is nobody's own.
    another = await life.complete(await life.execute())
    answer = await act(client, f"/monitor/jobs/{another.job_id}/again", press=first)
    assert answer.status == 422


async def test_only_a_completed_job_is_sent_again(client, life):
    job = await life.fail(await life.execute())
    assert "was not sent again" in await flash(client, await act(client, f"/monitor/jobs/{job.job_id}/again"))
    assert not (await read(client, f"/monitor/jobs/{job.job_id}")).all(
        "form", action=f"/monitor/jobs/{job.job_id}/again"
    )


async def test_the_undo_of_sending_again_cancels_the_new_job(client, life):
    job = await life.complete(await life.execute())
    answer = await act(client, f"/monitor/jobs/{job.job_id}/again")
    page = await (await client.get(answer.headers["Location"])).text()
    undo = re.search(r'action="(/monitor/jobs/(\d+)/cancel)"[^>]*>(?:(?!</form>).)*?Undo', page, re.DOTALL)
    assert undo
    assert int(undo[2]) > job.job_id
    await act(client, undo[1])
    assert (await life.store.get(int(undo[2]))).phase == "cancelled"


async def test_what_cannot_be_done_is_refused_in_words(client, life):
    job_id = await life.submit()
    assert "was not retried" in await flash(client, await act(client, f"/monitor/jobs/{job_id}/retry"))
    assert "was not deleted" in await flash(client, await act(client, f"/monitor/jobs/{job_id}/delete"))
    assert (await life.store.get(job_id)).phase == "queued"
    page = await read(client, f"/monitor/jobs/{job_id}/confirm-delete")
    assert not page.all("form")


async def test_a_finished_job_is_deleted_after_a_question(client, life):
    job = await life.complete(await life.execute())
    (link,) = [
        found["href"] for found in (await read(client, f"/monitor/jobs/{job.job_id}")).all("a", class_="button quiet")
    ]
    page = await read(client, link)
    (form,) = page.all("form")
    assert (form["method"], form["action"]) == ("post", f"/monitor/jobs/{job.job_id}/delete")
    fields = {found["name"]: found["value"] for found in page.all("input", type="hidden")}
    answer = await client.post(form["action"], data=fields, allow_redirects=False)
    assert await flash(client, answer) == f"Job {job.job_id} and its files are deleted."
    await read(client, f"/monitor/jobs/{job.job_id}", status=404)


@pytest.mark.parametrize("action", ACTIONS)
async def test_an_action_on_no_job_is_404(client, action):
    assert (await act(client, f"/monitor/jobs/999/{action}")).status == 404


@pytest.mark.parametrize("action", ACTIONS)
async def test_a_get_changes_nothing(client, life, action):
    job_id = await life.submit()
    answer = await client.get(f"/monitor/jobs/{job_id}/{action}")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert (await life.store.get(job_id)).seq == 1


@pytest.mark.parametrize("action", ACTIONS)
async def test_only_our_own_form_acts(client, life, action):
    job = await life.fail(await life.execute())
    foreign: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"Origin": "https://evil.example"}, {}),
        ({"Origin": "null"}, {}),
        ({"Origin": "http://127.0.0.1:1"}, {}),
        ({"Sec-Fetch-Site": "cross-site"}, {}),
        ({"Sec-Fetch-Site": "same-site"}, {}),
        ({}, {"csrf": ""}),
        ({}, {"csrf": "A" * 43}),
        ({}, {"csrf": "ä"}),
    ]
    for headers, fields in foreign:
        answer = await act(client, f"/monitor/jobs/{job.job_id}/{action}", headers, **fields)
        assert answer.status == 403, (headers, fields)
        assert "Not allowed" in Document(await answer.text()).text
    assert (await life.store.get(job.job_id)).seq == job.seq


async def test_a_form_without_its_cookie_does_nothing(client, life):
    job = await life.fail(await life.execute())
    page = await read(client, "/monitor/")
    token = page.all("input", name="csrf")[0]["value"]
    client.session.cookie_jar.clear()
    answer = await client.post(f"/monitor/jobs/{job.job_id}/retry", data={"csrf": token})
    assert answer.status == 403
    assert (await life.store.get(job.job_id)).seq == job.seq


async def test_the_way_back_leads_to_our_own_pages_only(client, life):
    job_id = await life.submit()
    foreign = ("https://evil.example/", "//evil.example/", "/monitor/\\evil", "/monitor/\r\nA: b", "/other", "")
    for back in foreign:
        answer = await act(client, f"/monitor/jobs/{job_id}/cancel", back=back)
        assert answer.headers["Location"] == f"/monitor/jobs/{job_id}", back


async def test_a_forged_flash_says_nothing(client):
    for cookie in ("deleted.<b>", "evil.1", "deleted.1; x", f"deleted.{'1' * 40}"):
        answer = await client.get("/monitor/", headers={"Cookie": f'monitor_flash="{cookie}"'})
        assert 'class="flash' not in await answer.text()


async def test_every_answer_forbids_what_the_page_does_not_need(client, life, database):
    job_id = await life.submit()
    page = await read(client, "/monitor/")
    answers = [
        await client.get(path, allow_redirects=False)
        for path in (
            *("/monitor", "/monitor/", "/monitor/?status=no", "/monitor/workers", f"/monitor/jobs/{job_id}"),
            *(f"/monitor/jobs/{job_id}/confirm-delete", f"/monitor/jobs/{job_id}/cancel", "/monitor/nowhere"),
            *(page.all("script")[0]["src"], "/monitor/static/none", "/monitor/jobs/999"),
        )
    ]
    answers += [await client.post("/monitor/jobs/1/cancel"), await client.post("/monitor/nowhere")]
    answers.append(await act(client, f"/monitor/jobs/{job_id}/cancel"))
    async with database.transaction() as session:
        await session.execute(text("DROP TABLE job_events"))
    answers.append(await client.get(f"/monitor/jobs/{job_id}"))
    statuses = [answer.status for answer in answers]
    assert statuses == [301, 200, 422, 200, 200, 200, 405, 404, 200, 404, 404, 403, 404, 303, 500]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"


async def test_hostile_texts_are_shown_as_texts_and_nothing_is_inline_or_foreign(client, life):
    changes = {"prompt": HOSTILE, "user_id": HOSTILE, "negative_prompt": HOSTILE, "metadata": {HOSTILE: HOSTILE}}
    claim = await life.execute(**changes, params={HOSTILE: [HOSTILE]})
    await life.fail(claim, HOSTILE)
    await life.submit(job_type="workflow", workflow={HOSTILE: {"class_type": HOSTILE, "inputs": {"a": HOSTILE}}})
    paths = ["/monitor/", f"/monitor/jobs/{claim.job_id}", f"/monitor/jobs/{claim.job_id + 1}", "/monitor/workers"]
    paths += [f"/monitor/jobs/{claim.job_id}/confirm-delete", "/monitor/nowhere"]
    for path in paths:
        answer = await client.get(path, params={"q": HOSTILE[:20], "back": HOSTILE})
        page = Document(await answer.text())
        assert page.elements
        if path.startswith("/monitor/jobs/"):
            assert "<script>alert(1)</script><img src=x onerror=alert(2)>" in page.text
        assert "864199" not in page.text
        for tag, attributes in page.elements:
            assert tag not in ("style", "iframe", "object", "base")
            assert tag != "script" or attributes["src"].startswith("/monitor/static/")
            assert not [name for name in attributes if name == "style" or name.startswith("on")]
            for name in ("src", "href", "action"):
                assert attributes.get(name, "/").startswith(("/", "#")), (path, tag, attributes)
                assert not attributes.get(name, "").startswith("//")


async def test_the_token_is_out_of_scripts_reach_and_of_other_sites(client):
    answer = await client.get("/monitor/")
    (cookie,) = answer.headers.getall("Set-Cookie")
    for part in ("monitor_csrf=", "HttpOnly", "SameSite=Strict", "Path=/monitor"):
        assert part in cookie
    assert "Set-Cookie" not in (await client.get("/monitor/")).headers
