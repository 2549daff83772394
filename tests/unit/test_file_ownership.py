"""Whose a file is: by its folder, and by when it was written."""

from __future__ import annotations

from typing import Any

import pytest

from app.domain.errors import OutputInvalid, OutputNotOwn
from worker.comfyui.file_ownership import Run, stamp_of
from worker.comfyui.node_outputs import OutputFile

ID = "0b1e7f6e-5a6b-4d0e-9a51-2f5d6f0f3c11"
BEGAN_S = 1_795_431_261.0
LAST_MODIFIED = "Mon, 23 Nov 2026 10:54:21 GMT"  # BEGAN_S


def run(**changes: Any) -> Run:
    graph = {
        "2": {"class_type": "Saver"},
        "3": {"class_type": "PreviewImage"},
        "4": {"class_type": "ImageCropV2"},
        "5": {"class_type": "Preview3D"},
    }
    usual = {
        "prompt_id": ID,
        "folder_id": ID,
        "graph": graph,
        "alone": True,
        "watched": True,
        "began_ms": BEGAN_S * 1000,
        "ended_ms": BEGAN_S * 1000 + 2000,
    }
    return Run(**usual | changes)


def etag(seconds_after: float) -> str:
    return f'"{int((BEGAN_S + seconds_after) * 1e9):x}-1f3"'


@pytest.mark.parametrize(
    ("file", "own"),
    [
        (OutputFile("2", "image_00001_.png", f"genonaut/7/{ID}"), True),
        (OutputFile("2", f"genonaut_7_{ID}_image.png"), True),  # a saver that takes no folders
        (OutputFile("2", "text.txt", text="a text"), True),
        (OutputFile("3", "ComfyUI_temp_kqayd_00001_.png", folder="temp"), True),
        (OutputFile("2", "ComfyUI_temp_kqayd_00001_.png", folder="temp"), False),
        (OutputFile("3", "fixed.png"), False),
        (OutputFile("9", "fixed.png", folder="temp"), False),
        (OutputFile("2", "fixed.png"), False),
        (OutputFile("2", "image_00001_.png", "genonaut/7/another"), False),
        (OutputFile("4", "ComfyUI_temp_bgpsf_00001_.png", folder="temp"), True),
        (OutputFile("4", "ComfyUI_temp_bgpsf_00001_.png"), False),
        (OutputFile("5", f"preview3d_{'0a' * 16}.glb"), True),
        (OutputFile("2", f"preview3d_{'0a' * 16}.glb"), False),
        (OutputFile("5", "mesh.glb"), False),
    ],
)
def test_a_file_is_the_runs_own_by_its_folder_or_because_its_name_is_random(file: OutputFile, own: bool) -> None:
    assert run().has_for_itself(file) is own


def test_without_a_prompt_id_no_folder_is_ones_own() -> None:
    assert not run(prompt_id="").has_for_itself(OutputFile("2", "fixed.png"))


def test_a_file_that_a_cached_node_names_may_be_had_by_another_run() -> None:
    file, gone = OutputFile("2", "fixed.png"), OutputInvalid("It is not there.")
    assert run().seen(file, gone) is gone
    old = run(cached=frozenset({"2"})).seen(file, gone)
    assert isinstance(old, OutputNotOwn)
    assert "It is not there." in str(old)


def test_what_others_may_write_to_is_kept_of_a_run_alone_only() -> None:
    file = OutputFile("2", "fixed.png")
    run().require_alone(file)
    with pytest.raises(OutputNotOwn):
        run(alone=False).require_alone(file)


@pytest.mark.parametrize("after", [-3600, -1, -0.1])
def test_a_file_older_than_the_run_is_not_its_own(after: float) -> None:
    with pytest.raises(OutputNotOwn, match="older"):
        run().require_made(OutputFile("2", "fixed.png"), stamp_of(etag(after), LAST_MODIFIED, "499"))


@pytest.mark.parametrize("after", [-0.009, 0, 0.5, 2, 2.009, 60])
def test_a_file_of_the_kernels_last_tick_or_later_may_be_its_own(after: float) -> None:
    run().require_made(OutputFile("2", "fixed.png"), stamp_of(etag(after), None, "499"))


def test_whole_seconds_are_read_in_the_runs_favour() -> None:
    stamp = stamp_of("W/anything", LAST_MODIFIED, "499")
    assert (stamp.earliest, stamp.latest) == (BEGAN_S, BEGAN_S + 1)
    run(began_ms=BEGAN_S * 1000 + 900).require_made(OutputFile("2", "fixed.png"), stamp)
    with pytest.raises(OutputNotOwn):
        run(began_ms=BEGAN_S * 1000 + 1001).require_made(OutputFile("2", "fixed.png"), stamp)


@pytest.mark.parametrize(("after", "outlasted"), [(0, False), (2, False), (2.015, False), (2.1, True), (60, True)])
def test_a_change_after_the_end_is_noticed(after: float, outlasted: bool) -> None:
    assert run().outlasted_by(stamp_of(etag(after), None, None)) is outlasted


@pytest.mark.parametrize(
    ("given", "modified"),
    [(None, None), ("", ""), ('"zz-1"', "yesterday"), ('"1-2"', "Mon, 99 Nov 99999"), ("\xff", "\xff")],
)
def test_headers_that_make_no_sense_tell_nothing(given: str | None, modified: str | None) -> None:
    stamp = stamp_of(given, modified, None)
    assert (stamp.earliest, stamp.latest) == (None, None)
    run().require_made(OutputFile("2", "fixed.png"), stamp)
    assert not run().outlasted_by(stamp)


def test_a_server_that_tells_no_times_is_taken_at_its_word() -> None:
    blind = run(began_ms=None, ended_ms=None)
    blind.require_made(OutputFile("2", "fixed.png"), stamp_of(etag(-60), None, None))
    assert not blind.outlasted_by(stamp_of(etag(60), None, None))
