"""How requests refer to files: what is taken, what is refused and where, and what it means for the job."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from samples import new_job

from app.domain.errors import InvalidRequest
from app.services.references import resized
from app.web.checking import check
from app.web.requests import JobRequest

LEAST = {"user_id": "u", "job_type": "image", "prompt": "p"}
GRAPH = {"1": {"class_type": "LoadImage", "inputs": {"image": "a"}}}
WITH_GRAPH = {"user_id": "u", "job_type": "workflow", "workflow": GRAPH}
UPLOAD = {"upload": "a" * 32}


def asked(**fields: Any) -> Any:
    return check(JobRequest, LEAST | fields).to_new_job()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (UPLOAD, UPLOAD),
        ("upload:abc", {"upload": "abc"}),
        ({"content": 12, "output": 3}, {"content": 12, "output": 3}),
        ({"content": 12}, {"content": 12, "output": 0}),
        ({"content": 12, "output": 3} | UPLOAD, {"content": 12, "output": 3} | UPLOAD),
        ({"url": "https://example.com/a"}, {"url": "https://example.com/a"}),
        ({"url": "https://example.com/a"} | UPLOAD, {"url": "https://example.com/a"} | UPLOAD),
        ({"data": "data:image/png;base64," + base64.b64encode(b"abc").decode()}, {"data": b"abc"}),
        ({"data": "data:;base64,YWJj"}, {"data": b"abc"}),
    ],
)
def test_each_form_of_a_reference_is_taken(given: Any, kept: dict[str, Any]) -> None:
    assert asked(image=given).image == kept
    job = check(JobRequest, WITH_GRAPH | {"inputs": {"1.image": given}}).to_new_job()
    assert job.inputs == {"1.image": kept}


@pytest.mark.parametrize(
    ("given", "below"),
    [
        ({}, ""),
        ({"upload": "a", "url": "http://x/", "content": 1}, ""),
        ({"upload": "a", "data": "data:;base64,"}, ""),
        ({"content": 1, "url": "http://x/"}, ""),
        ({"upload": "../a"}, "/upload"),
        ({"upload": 7}, "/upload"),
        ({"data": "data:image/png;base64,*"}, "/data"),
        ({"data": "AAAA"}, "/data"),
        ({"data": 7}, "/data"),
        ({"output": 1, "upload": "a"}, "/output"),
        ({"content": -1}, "/content"),
        ({"content": 1, "output": 2**31}, "/output"),
        ({"url": ""}, "/url"),
        ({"url": "http://" + "x" * 5000}, "/url"),
        ("a.png", ""),
        ("upload:", ""),
        (["upload:a"], ""),
        ({"file": "a"}, "/file"),
    ],
)
def test_what_names_no_file_is_refused_by_its_place(given: Any, below: str) -> None:
    for body, place in (
        (LEAST | {"image": given}, "/image"),
        (WITH_GRAPH | {"inputs": {"1.image": given}}, "/inputs/1.image"),
    ):
        with pytest.raises(InvalidRequest) as error:
            check(JobRequest, body)
        assert f"{place}{below}" in [fault.pointer for fault in error.value.faults]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (LEAST | {"mask": UPLOAD}, "/mask"),
        (LEAST | {"upscale_model": "a.pth"}, "/upscale_model"),
        (LEAST | {"image": UPLOAD, "mask": UPLOAD, "upscale_model": "a.pth"}, "/upscale_model"),
        (LEAST | {"image": UPLOAD, "prompt": None}, "/prompt"),
        (LEAST | {"image": UPLOAD, "inputs": {"1.image": UPLOAD}}, "/inputs"),
        (WITH_GRAPH | {"image": UPLOAD}, "/image"),
        (WITH_GRAPH | {"inputs": {str(number): UPLOAD for number in range(101)}}, "/inputs"),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_field(body: dict[str, Any], pointer: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        check(JobRequest, body)
    assert [fault.pointer for fault in error.value.faults] == [pointer]


def test_an_upscale_needs_no_prompt() -> None:
    assert asked(prompt=None, image=UPLOAD, upscale_model="a.pth").prompt is None


@pytest.mark.parametrize(
    ("fields", "denoise"),
    [
        ({}, 1.0),
        ({"image": UPLOAD}, 0.75),
        ({"image": UPLOAD, "sampler_params": {"steps": 3}}, 0.75),
        ({"image": UPLOAD, "sampler_params": {"denoise": 1.0}}, 1.0),
        ({"image": UPLOAD, "sampler_params": {"denoise": 0.4}}, 0.4),
    ],
)
def test_denoise_is_that_of_pictures_unless_it_is_given(fields: dict[str, Any], denoise: float) -> None:
    assert asked(**fields).sampler_params["denoise"] == denoise


@pytest.mark.parametrize(
    ("picture", "asked_for", "made"),
    [
        ((96, 64), {}, (96, 64)),
        ((101, 67), {}, (96, 64)),
        ((96, 64), {"width": 128, "height": 128}, (128, 128)),
        ((96, 64), {"width": 192}, (192, 128)),
        ((96, 64), {"height": 128}, (192, 128)),
        ((4096, 64), {}, (2048, 64)),
        ((16, 16), {}, (64, 64)),
        ((1, 30_000), {"width": 64}, (64, 2048)),
        ((None, None), {}, (0, 0)),
    ],
)
def test_the_size_follows_from_the_picture(
    picture: tuple[int | None, int | None], asked_for: dict[str, int], made: tuple[int, int]
) -> None:
    assert resized(new_job(**{"width": 0, "height": 0} | asked_for), *picture) == made


def test_a_size_that_is_given_is_rounded_and_that_is_said() -> None:
    job = asked(image=UPLOAD, width=195)
    assert (job.width, job.height) == (192, 0)
    assert job.warnings == ["The width 195 was rounded down to 192, a multiple of 8."]
