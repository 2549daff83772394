"""What loaders offer, take and refuse, and what the nodes make that pictures, sounds and videos go through."""

import io
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest
from PIL import Image
from unit.standin.standin_client import BOTH, OLD, Client, image_graph, png

from worker.standin.files import Folders
from worker.standin.input_files import input_checks

RECORDED: Final = json.loads((Path(__file__).parents[2] / "data" / "input-classes" / "object_info.json").read_text())

FILES: Final = ("b.PNG", "a.webp", "s.wav", "v.mp4", "v.mkv", "x.latent", "t.txt", "noext")


def loading(name: Any, class_type: str = "LoadImage", key: str = "image", **more: Any) -> dict[str, Any]:
    """Return a graph that loads a file and saves what is in it."""
    graph = image_graph()
    graph["1"] = {"class_type": class_type, "inputs": {key: name, **more}}
    return graph


def through(class_type: str, graph: dict[str, Any], kind: str = "images", **inputs: Any) -> dict[str, Any]:
    """Return a graph in which one more node stands in front of the saver, or of a preview of a mask."""
    last = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}}
    if kind == "mask":
        last = {"class_type": "MaskPreview", "inputs": {"mask": ["3", 0]}}
    return {**graph, "3": {"class_type": class_type, "inputs": inputs}, "2": last}


async def refusal(client: Client, graph: dict[str, Any], node: str = "1") -> list[tuple[str, str]]:
    """Return the errors at a node of a graph that is refused."""
    status, answer = await client.post("/prompt", {"prompt": graph})
    assert status == 400, answer
    return [(error["type"], error["details"]) for error in answer["node_errors"][node]["errors"]]


@BOTH
async def test_classes_describe_themselves_as_recorded(client: Client) -> None:
    _, types = await client.get("/object_info")

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(member) for key, member in value.items() if key not in ("description", "tooltip")}
        return [bare(member) for member in value] if isinstance(value, list) else value

    recorded = RECORDED[client.standin.options.version]
    assert {name: bare(types[name]) for name in recorded} == recorded


@BOTH
async def test_loaders_offer_the_files_at_the_top_of_the_folder_that_are_of_their_kind(client: Client) -> None:
    for name in FILES:
        await client.upload(b"x", name)
    await client.upload(b"x", "deep.png", subfolder="a")
    _, types = await client.get("/object_info")
    offered = {}
    for name, key in (
        ("LoadImage", "image"),
        ("LoadImageMask", "image"),
        ("LoadAudio", "audio"),
        ("LoadVideo", "file"),
    ):
        kind, config = types[name]["input"]["required"][key]
        offered[name] = kind if isinstance(kind, list) else config["options"]
    pictures = ["a.webp", "b.PNG"]
    newer = client.standin.options.version != "0.3.64"
    assert offered == {
        "LoadImage": pictures,
        "LoadImageMask": pictures if newer else sorted(FILES),
        "LoadAudio": ["s.wav", "v.mkv", "v.mp4"],
        "LoadVideo": ["v.mkv", "v.mp4"],
    }
    assert types["LoadLatent"]["input"]["required"]["latent"][0] == ["x.latent"]
    assert types["VHS_LoadVideo"]["input"]["required"]["video"] == [["v.mkv", "v.mp4"], {"video_upload": True}]


@BOTH
@pytest.mark.parametrize(
    "name",
    ["in.png", "a/in.png", "in.png [input]", "a/out.png [output]", "a/../in.png", "./in.png", {"__value__": "in.png"}],
)
async def test_a_name_of_any_of_these_forms_is_taken(client: Client, name: Any) -> None:
    for data, fields in ((png(3), {}), (png(3), {"subfolder": "a"})):
        await client.upload(data, "in.png", **fields)
    await client.upload(png(3), "out.png", subfolder="a", type="output")
    for class_type in ("LoadImage", "LoadImageOutput"):
        (picture,) = await client.saved(await client.run(loading(name, class_type)))
        assert picture.size == (40, 24)


@BOTH
@pytest.mark.parametrize(
    "name", ["gone.png", "out.png", "in.png [output]", "in.png[input]", "in.png  [input]", "../../x", "a\0b", "n" * 300]
)
async def test_a_missing_file_is_refused_by_each_loader_in_the_same_words(client: Client, name: str) -> None:
    await client.upload(png(), "in.png")
    await client.upload(png(), "out.png", type="output")
    for class_type, key, what in (
        ("LoadImage", "image", "image"),
        ("LoadImageMask", "image", "image"),
        ("LoadImageOutput", "image", "image"),
        ("LoadAudio", "audio", "audio"),
        ("LoadVideo", "file", "video"),
    ):
        more = {"channel": "red"} if class_type == "LoadImageMask" else {}
        graph = loading(name, class_type, key, **more)
        graph["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
        told = f"{key} - Invalid {what} file: {name}"
        assert await refusal(client, graph) == [("custom_validation_failed", told)]


@BOTH
async def test_a_name_may_lead_to_another_folder_only_in_the_older_age(client: Client) -> None:
    await client.upload(png(), "out.png", type="output")
    graph = loading("../output/out.png")
    if client.standin.options.version == "0.3.64":
        assert await client.saved(await client.run(graph))
    else:
        assert (await refusal(client, graph))[0][0] == "custom_validation_failed"


@BOTH
@pytest.mark.parametrize(
    ("name", "told"),
    [
        (5, "'int' object has no attribute 'endswith'"),
        (None, "'NoneType' object has no attribute 'endswith'"),
        (["4", 0], "'NoneType' object has no attribute 'endswith'"),
        (..., "LoadImage.VALIDATE_INPUTS() missing 1 required positional argument: 'image'"),
    ],
)
async def test_what_is_no_name_makes_the_check_fail(client: Client, name: Any, told: str) -> None:
    graph = loading(name)
    graph["4"] = {"class_type": "PrimitiveString", "inputs": {"value": "in.png"}}
    if name is ...:
        graph["1"]["inputs"] = {}
    assert await refusal(client, graph) == [("exception_during_inner_validation", told)]


@BOTH
async def test_a_file_that_is_no_picture_fails_the_job(client: Client) -> None:
    newer = client.standin.options.version != "0.3.64"
    for name, data in (("text.png", b"text"), ("empty.png", b""), ("in.txt", b"text")):
        await client.upload(data, name)
        _, failure = (await client.run(loading(name)))["status"]["messages"][-1]
        other = newer and name != "text.png"
        assert failure["exception_type"] == ("av.error.InvalidDataError" if other else "PIL.UnidentifiedImageError")
    await client.upload(b"x", subfolder="folder")
    _, failure = (await client.run(loading("folder")))["status"]["messages"][-1]
    assert failure["exception_type"] == ("av.error.IsADirectoryError" if newer else "IsADirectoryError")


@BOTH
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
async def test_a_picture_that_was_cut_off_is_loaded_as_if_nothing_were_missing(client: Client, form: str) -> None:
    whole, buffer = Image.effect_noise((64, 64), 90).convert("RGB"), io.BytesIO()
    whole.save(buffer, form)
    data = buffer.getvalue()
    await client.upload(data[: len(data) // 2], "in.png")
    (picture,) = await client.saved(await client.run(loading("in.png")))
    with Image.open(io.BytesIO(data)) as opened:
        assert picture.size == (64, 64)
        assert picture.getpixel((0, 0)) == opened.getpixel((0, 0))
        assert picture.getpixel((63, 63)) == ((0, 0, 0) if form == "PNG" else (128, 128, 128))


@BOTH
async def test_each_frame_of_an_animation_is_a_picture(client: Client) -> None:
    frames = [Image.new("RGB", (16, 16), (red, 2, 3)) for red in (1, 100, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    await client.upload(buffer.getvalue(), "in.gif")
    pictures = await client.saved(await client.run(loading("in.gif")))
    assert [one.getpixel((5, 5)) for one in pictures] == [frame.getpixel((5, 5)) for frame in frames]


@BOTH
async def test_a_mask_is_white_where_a_picture_is_transparent(client: Client) -> None:
    await client.upload(png((200, 100, 50, 100), (16, 16), "RGBA"), "a.png")
    await client.upload(png((200, 100, 50), (16, 16)), "b.png")
    found = {}
    for name in ("a.png", "b.png"):
        graph = loading(name)
        graph["2"] = {"class_type": "MaskPreview", "inputs": {"mask": ["1", 1]}}
        (mask,) = await client.saved(await client.run(graph))
        found[name] = mask.size, mask.getpixel((5, 5))
        for channel in ("alpha", "green"):
            graph["1"] = {"class_type": "LoadImageMask", "inputs": {"image": name, "channel": channel}}
            graph["2"]["inputs"]["mask"] = ["1", 0]
            (mask,) = await client.saved(await client.run(graph))
            found[f"{name} {channel}"] = mask.size, mask.getpixel((5, 5))
    small, grey, black = (16, 16), (155,) * 3, (0,) * 3
    none = small if client.standin.options.version == "0.3.64" else (64, 64)
    assert found == {
        "a.png": (small, grey),
        "a.png alpha": (small, grey),
        "a.png green": (small, (100,) * 3),
        "b.png": ((64, 64), black),
        "b.png alpha": (none, black),
        "b.png green": (small, (100,) * 3),
    }


async def test_other_bytes_under_the_same_name_are_loaded_anew_and_the_same_ones_are_not(client: Client) -> None:
    ran = []
    for color in (1, 1, 2):
        await client.upload(png(color), overwrite="true")
        await client.run(loading("in.png"))
        ran.append("1" in client.standin.log.executions[-1].nodes)
    assert ran == [True, False, True]


@OLD
async def test_the_list_of_files_names_no_folder_in_the_older_age(client: Client) -> None:
    await client.upload(png())
    assert (await client.get("/internal/files/input"))[1] == ["in.png"]


@BOTH
async def test_a_batch_is_repeated_and_a_channel_taken_out(client: Client) -> None:
    await client.upload(png((200, 100, 50)))
    source = loading("in.png")
    repeated = through("RepeatImageBatch", source, image=["1", 0], amount=3)
    assert len(await client.saved(await client.run(repeated))) == 3
    repeated["3"]["inputs"]["amount"] = 0
    assert await refusal(client, repeated, "3") == [("value_smaller_than_min", "amount")]
    channel = through("ImageToMask", source, "mask", image=["1", 0], channel="green")
    (mask,) = await client.saved(await client.run(channel))
    assert mask.getpixel((5, 5)) == (100, 100, 100)
    channel["3"]["inputs"]["channel"] = "alpha"
    _, failure = (await client.run(channel))["status"]["messages"][-1]
    assert failure["exception_type"] == "IndexError"


@BOTH
@pytest.mark.parametrize(
    ("inputs", "first", "last"),
    [
        ({}, (0, 0, 255), (200, 100, 50)),
        ({"x": 12, "y": 12}, (200, 100, 50), (0, 0, 255)),
        ({"x": 100}, (200, 100, 50), (200, 100, 50)),
        ({"resize_source": True}, (0, 0, 255), (0, 0, 255)),
        ({"mask": ["6", 0]}, (100, 50, 153), (200, 100, 50)),
        ({"mask": ["6", 0], "resize_source": True}, (100, 50, 153), (100, 50, 153)),
    ],
)
async def test_a_picture_is_pasted_into_another(client: Client, inputs: Any, first: Any, last: Any) -> None:
    await client.upload(png((200, 100, 50), (16, 16)))
    source = loading("in.png")
    source["5"] = {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 255}}
    source["6"] = {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 8, "height": 8}}
    links = {"destination": ["1", 0], "source": ["5", 0], "x": 0, "y": 0, "resize_source": False}
    (picture,) = await client.saved(await client.run(through("ImageCompositeMasked", source, **links | inputs)))
    assert (picture.getpixel((0, 0)), picture.getpixel((15, 15))) == (first, last)


def bytes_of(pictures: list[Image.Image]) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]


@BOTH
async def test_a_video_is_taken_apart_and_other_bytes_are_another_video(client: Client) -> None:
    found = []
    for name, data in (("a.mp4", b"one"), ("b.mp4", b"one"), ("c.mp4", b"two")):
        await client.upload(data, name)
        source = {"1": {"class_type": "LoadVideo", "inputs": {"file": name}}}
        graph = through("GetVideoComponents", source, video=["1", 0])
        graph["4"] = {"class_type": "PreviewAudio", "inputs": {"audio": ["3", 1]}}
        graph["5"] = {"class_type": "PreviewAny", "inputs": {"source": ["3", 2]}}
        entry = await client.run(graph)
        found.append(bytes_of(await client.saved(entry)))
        assert entry["outputs"]["5"] == {"text": ["8.0"]}
        assert entry["outputs"]["4"]["audio"]
    assert found[0] == found[1] != found[2]
    assert len(set(found[0])) > 1, "it moves"


async def test_a_loaded_video_can_be_saved(client: Client) -> None:
    await client.upload(b"one", "a.mp4")
    inputs = {"video": ["1", 0], "filename_prefix": "v", "format": "auto", "format.codec": "auto"}
    graph = {
        "1": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}},
        "2": {"class_type": "SaveVideo", "inputs": inputs},
    }
    assert (await client.run(graph))["outputs"]["2"]["images"]


FRAMES: Final = {
    "force_rate": 0,
    "custom_width": 0,
    "custom_height": 0,
    "frame_load_cap": 0,
    "skip_first_frames": 0,
    "select_every_nth": 1,
}


@BOTH
@pytest.mark.parametrize(
    ("inputs", "numbers", "size"),
    [
        ({}, list(range(16)), (96, 64)),
        ({"skip_first_frames": 3, "select_every_nth": 4}, [3, 7, 11, 15], (96, 64)),
        ({"frame_load_cap": 2}, [0, 1], (96, 64)),
        ({"force_rate": 4}, [0, 2, 4, 6, 8, 10, 12, 14], (96, 64)),
        ({"custom_width": 48, "frame_load_cap": 1}, None, (48, 32)),
        ({"custom_height": 100, "frame_load_cap": 1}, None, (152, 104)),
    ],
)
async def test_the_suite_loads_the_frames_that_are_asked_for(
    client: Client, inputs: Any, numbers: list[int] | None, size: tuple[int, int]
) -> None:
    await client.upload(b"one", "a.mp4")
    graph = loading("a.mp4", "VHS_LoadVideo", "video", **FRAMES)
    graph["5"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 1]}}
    whole = bytes_of(await client.saved(await client.run(graph)))
    graph["1"]["inputs"] |= inputs
    entry = await client.run(graph)
    pictures = await client.saved(entry)
    assert {picture.size for picture in pictures} == {size}
    assert entry["outputs"]["5"] == {"text": [str(len(pictures))]}
    assert numbers is None or bytes_of(pictures) == [whole[number] for number in numbers]


@BOTH
async def test_the_suite_says_at_each_input_that_the_file_is_missing_and_fails_without_frames(client: Client) -> None:
    await client.upload(b"one", "a.mp4")
    found = await refusal(client, loading("gone.mp4", "VHS_LoadVideo", "video", **FRAMES))
    told = [f"{name} - Invalid video file: gone.mp4" for name in ("video", *FRAMES, "unique_id")]
    assert found == [("custom_validation_failed", one) for one in told]
    entry = await client.run(loading("a.mp4", "VHS_LoadVideo", "video", **FRAMES | {"skip_first_frames": 16}))
    assert entry["status"]["messages"][-1][1]["exception_message"] == "No frames generated\n"


async def test_a_sound_that_cannot_be_decoded_is_drawn_from_its_bytes(client: Client) -> None:
    found = []
    for name, data in (("a.mp3", b"one"), ("b.mp3", b"one"), ("c.mp3", b"two")):
        await client.upload(data, name)
        graph = {
            "1": {"class_type": "LoadAudio", "inputs": {"audio": name}},
            "2": {"class_type": "PreviewAudio", "inputs": {"audio": ["1", 0]}},
        }
        entry = await client.run(graph)
        found.append((await client.get("/view", **entry["outputs"]["2"]["audio"][0]))[1])
    assert found[0] == found[1] != found[2]


def test_another_date_is_a_change_for_videos_only_and_other_bytes_for_all_others(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.prepare()
    path = tmp_path / "input" / "a.mp4"
    path.write_bytes(b"one")
    by_date, by_bytes = (
        input_checks(folders, "Load.check", "file", "video", by_date=by_date)["fingerprint"]
        for by_date in (True, False)
    )
    before = by_date({"file": "a.mp4"}), by_bytes({"file": "a.mp4"})
    os.utime(path, (1_000, 1_000))
    assert (by_date({"file": "a.mp4"}) == before[0], by_bytes({"file": "a.mp4"}) == before[1]) == (False, True)
    path.write_bytes(b"two")
    assert by_bytes({"file": "a.mp4"}) != before[1]
    assert by_date({"file": "gone.mp4"}) is None
    assert by_bytes({"file": "gone.mp4"}) != by_bytes({"file": "gone.mp4"}), "what cannot be looked at has changed"
