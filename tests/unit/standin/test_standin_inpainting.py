"""Pictures that are made from pictures: all of it, only what a mask shows, and several from one."""

from typing import Any, Final

import pytest
from PIL import Image, ImageChops
from unit.standin.standin_client import BOTH, Client, png, text_to_image

SIZE: Final = (64, 96)
MASK_BOX: Final = (16, 24, 48, 72)
"""What the mask of these tests shows."""


def from_picture(name: str = "in.png", **sampler: Any) -> dict[str, Any]:
    """Return a graph that samples a picture again."""
    graph = text_to_image(**{"denoise": 0.6, **sampler})
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    graph["5"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["1", 0], "vae": ["4", 2]}}
    return graph


def masked(graph: dict[str, Any], name: str = "mask.png") -> dict[str, Any]:
    """Return the graph with a mask on its latent."""
    graph["20"] = {"class_type": "LoadImageMask", "inputs": {"image": name, "channel": "red"}}
    graph["21"] = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["5", 0], "mask": ["20", 0]}}
    graph["3"]["inputs"]["latent_image"] = ["21", 0]
    return graph


async def upload_mask(client: Client, box: tuple[int, int, int, int] = MASK_BOX) -> None:
    """Upload a mask that is white in this box."""
    mask = Image.new("L", SIZE)
    mask.paste(255, box)
    client_name = client.standin.folders.inside("input", "") / "mask.png"
    mask.save(client_name)


async def made(client: Client, graph: dict[str, Any]) -> list[Image.Image]:
    """Run a graph and return its pictures."""
    return await client.saved(await client.run(graph), "9")


def changed(one: Image.Image, other: Image.Image) -> tuple[int, int, int, int] | None:
    """Return the box outside of which two pictures are the same."""
    return ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox()


@BOTH
async def test_a_picture_sampled_again_depends_on_it_the_more_the_less_noise_there_is(client: Client) -> None:
    await client.upload(png((255, 0, 0), SIZE), "red.png")
    await client.upload(png((0, 0, 255), SIZE), "blue.png")
    distances = []
    for denoise in (0.2, 0.6, 0.9, 1.0):
        red, blue = [(await made(client, from_picture(name, denoise=denoise)))[0] for name in ("red.png", "blue.png")]
        assert red.size == SIZE
        distances.append(max(high for _, high in ImageChops.difference(red, blue).getextrema()))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 190
    assert distances[-1] == 0, "with nothing but noise the picture is forgotten"


async def test_a_seed_decides_what_is_made_from_a_picture(client: Client) -> None:
    await client.upload(png((255, 0, 0), SIZE))
    (one,), (same,), (other,) = [await made(client, from_picture(seed=seed)) for seed in (1, 1, 2)]
    assert changed(one, same) is None
    assert changed(one, other) is not None


@BOTH
@pytest.mark.parametrize("denoise", [0.5, 1.0])
async def test_a_noise_mask_lets_only_what_is_white_change(client: Client, denoise: float) -> None:
    await client.upload(png((10, 200, 90), SIZE))
    await upload_mask(client)
    (picture,) = await made(client, masked(from_picture(denoise=denoise)))
    assert changed(picture, Image.new("RGB", SIZE, (10, 200, 90))) == MASK_BOX
    (whole,) = await made(client, from_picture(denoise=denoise))
    assert changed(picture.crop(MASK_BOX), whole.crop(MASK_BOX)) is None, "inside it is as without a mask"


async def test_a_black_mask_lets_nothing_change_and_a_small_one_is_stretched(client: Client) -> None:
    await client.upload(png((10, 200, 90), SIZE))
    graph = masked(from_picture(denoise=1.0))
    graph["20"] = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": 8, "height": 8}}
    (picture,) = await made(client, graph)
    assert changed(picture, Image.new("RGB", SIZE, (10, 200, 90))) is None
    graph["20"]["inputs"]["value"] = 1.0
    (picture,) = await made(client, graph)
    (whole,) = await made(client, from_picture(denoise=1.0))
    assert changed(picture, whole) is None


@BOTH
@pytest.mark.parametrize(("grow", "box"), [(0, MASK_BOX), (6, (13, 21, 51, 75)), (20, (6, 14, 58, 82))])
async def test_encoding_for_inpainting_changes_what_is_white_and_as_much_around_it_as_asked(
    client: Client, grow: int, box: tuple[int, int, int, int]
) -> None:
    await client.upload(png((10, 200, 90), SIZE))
    await upload_mask(client)
    graph = from_picture(denoise=1.0)
    graph["20"] = {"class_type": "LoadImageMask", "inputs": {"image": "mask.png", "channel": "red"}}
    links = {"pixels": ["1", 0], "vae": ["4", 2], "mask": ["20", 0], "grow_mask_by": grow}
    graph["5"] = {"class_type": "VAEEncodeForInpaint", "inputs": links}
    (picture,) = await made(client, graph)
    assert changed(picture, Image.new("RGB", SIZE, (10, 200, 90))) == box
    graph["8"]["inputs"]["samples"] = ["5", 0]
    (encoded,) = await made(client, graph)
    assert encoded.getpixel((30, 40)) == (127, 127, 127), "what is to be painted is not shown to the sampler"


async def test_a_second_sampler_keeps_to_the_mask_and_sees_what_the_first_made(client: Client) -> None:
    await client.upload(png((10, 200, 90), SIZE))
    await upload_mask(client)
    graph = masked(from_picture(denoise=1.0))
    (first,) = await made(client, graph)
    again = {**graph["3"]["inputs"], "latent_image": ["3", 0], "seed": 7, "denoise": 0.3}
    graph["30"] = {"class_type": "KSampler", "inputs": again}
    graph["8"]["inputs"]["samples"] = ["30", 0]
    (second,) = await made(client, graph)
    assert changed(first, second) == MASK_BOX
    (alone,) = await made(client, masked(from_picture(denoise=0.3, seed=7)))
    assert changed(second, alone) is not None


async def test_a_mask_set_after_sampling_changes_nothing_by_itself(client: Client) -> None:
    await client.upload(png((10, 200, 90), SIZE))
    await upload_mask(client)
    graph = from_picture()
    (before,) = await made(client, graph)
    graph["20"] = {"class_type": "LoadImageMask", "inputs": {"image": "mask.png", "channel": "red"}}
    graph["21"] = {"class_type": "SetLatentNoiseMask", "inputs": {"samples": ["3", 0], "mask": ["20", 0]}}
    graph["8"]["inputs"]["samples"] = ["21", 0]
    (after,) = await made(client, graph)
    assert changed(before, after) is None


def repeated(graph: dict[str, Any], amount: int, latent: str = "5") -> dict[str, Any]:
    """Return the graph with its latent repeated before it is sampled."""
    graph["40"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": [latent, 0], "amount": amount}}
    graph["3"]["inputs"]["latent_image"] = ["40", 0]
    return graph


@BOTH
async def test_each_picture_of_a_repeated_latent_is_another_one(client: Client) -> None:
    await client.upload(png((10, 200, 90), SIZE))
    await upload_mask(client)
    for graph in (text_to_image(), from_picture(), masked(from_picture(denoise=1.0))):
        latent = graph["3"]["inputs"]["latent_image"][0]
        (alone,) = await made(client, graph)
        pictures = await made(client, repeated(graph, 3, latent))
        assert len({picture.tobytes() for picture in pictures}) == 3
        assert changed(pictures[0], alone) is None
        if latent == "21":
            assert [changed(one, Image.new("RGB", SIZE, (10, 200, 90))) for one in pictures] == [MASK_BOX] * 3


async def test_what_was_sampled_before_it_is_repeated_stays_the_same(client: Client) -> None:
    graph = text_to_image()
    graph["5"]["inputs"]["batch_size"] = 2
    two = await made(client, graph)
    graph["40"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": ["3", 0], "amount": 2}}
    graph["8"]["inputs"]["samples"] = ["40", 0]
    four = await made(client, graph)
    assert [picture.tobytes() for picture in four] == [picture.tobytes() for picture in [*two, *two]]
