"""Which models a graph loads: told from what a backend offers, for the usual graphs and for loaders of all kinds."""

from __future__ import annotations

import copy
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import text_to_image

from app.domain.catalog import Catalog, read_catalog
from app.domain.loaded_models import MOST_CHARS, MOST_MODELS, LoadedModels, models_of
from app.domain.workflow import Graph, build_upscale_graph

CHECKPOINTS: Final = ["sd_xl_base_1.0.safetensors", "same.safetensors", "old.ckpt"]
LORAS: Final = [
    "add_detail.safetensors",
    "lcm.safetensors",
    "same.safetensors",
    *(f"l{n}.safetensors" for n in range(90)),
]
UNETS: Final = ["flux1-dev.safetensors", "wan2.1_i2v.safetensors"]
CLIPS: Final = ["clip_l.safetensors", "t5xxl_fp16.safetensors", "umt5_xxl.safetensors"]
VAES: Final = ["ae.safetensors", "taesd", "taesdxl", "taesd3", "taef1", "pixel_space"]
GGUF: Final = ["flux1-dev-Q4_K_S.gguf", "flux1-dev-Q8_0.gguf"]
DTYPES: Final = ["default", "fp8_e4m3fn"]


def a_class(*, module: str = "nodes", output_node: bool = False, **inputs: Any) -> dict[str, Any]:
    """A node class as `/object_info` has it: a list stands for choices, anything else for a type."""
    return {
        "input": {
            "required": {name: [kind] if not isinstance(kind, tuple) else list(kind) for name, kind in inputs.items()}
        },
        "output": ["*"],
        "output_node": output_node,
        "python_module": module,
    }


def custom(**inputs: Any) -> dict[str, Any]:
    return a_class(module="custom_nodes.some", **inputs)


OFFERED: Final[dict[str, Any]] = {
    "AFirstOne": custom(lora=["None", *LORAS]),
    "AVisionLoader": custom(vision=["clip_vision_h.safetensors"]),
    "CheckpointLoaderSimple": a_class(ckpt_name=CHECKPOINTS),
    "LoraLoader": a_class(model="MODEL", clip="CLIP", lora_name=LORAS, strength_model="FLOAT"),
    "LoraLoaderModelOnly": a_class(model="MODEL", lora_name=LORAS, strength_model="FLOAT"),
    "UNETLoader": a_class(unet_name=UNETS, weight_dtype=DTYPES),
    "CLIPLoader": a_class(clip_name=CLIPS, type=["wan", "sd3"], device=["default", "cpu"]),
    "DualCLIPLoader": a_class(clip_name1=CLIPS, clip_name2=CLIPS, type=["flux", "sdxl"]),
    "VAELoader": a_class(vae_name=VAES),
    "ControlNetLoader": a_class(control_net_name=["canny.safetensors", "depth.pth"]),
    "UpscaleModelLoader": a_class(model_name=["4x-UltraSharp.pth"]),
    "CLIPVisionLoader": a_class(clip_name=["clip_vision_h.safetensors"]),
    "UnetLoaderGGUF": custom(unet_name=GGUF),
    "UnetLoaderGGUFAdvanced": custom(unet_name=GGUF, dequant_dtype=DTYPES),
    "CLIPLoaderGGUF": custom(clip_name=[*CLIPS, "t5-v1_1-xxl-encoder-Q8_0.gguf"], type=["wan", "sd3"]),
    "LoRA Stacker": custom(lora_01=["None", *LORAS], strength_01="FLOAT", lora_02=["None", *LORAS]),
    "Power Lora Loader (rgthree)": custom(model="MODEL", clip="CLIP"),
    "LoadImage": a_class(image=(["a.png", "smuggled.safetensors", "other.bin"], {"image_upload": True})),
    "Odd": custom(file=[{"a": 1}, ["b"], None, 1, "c.safetensors"]),
    "Mixed": a_class(file=["a.png", "b.csv", "weights.bin"]),
    "PrimitiveString": a_class(value="STRING"),
    "CLIPTextEncode": a_class(text="STRING", clip="CLIP"),
    "EmptyLatentImage": a_class(width="INT", height="INT", batch_size="INT"),
    "KSampler": a_class(model="MODEL", seed="INT", steps="INT", sampler_name=["euler", "ddim"], scheduler=["normal"]),
    "VAEDecode": a_class(samples="LATENT", vae="VAE"),
    "ImageUpscaleWithModel": a_class(upscale_model="UPSCALE_MODEL", image="IMAGE"),
    "SaveImage": a_class(images="IMAGE", filename_prefix="STRING", output_node=True),
}  # fmt: skip
CATALOG: Final[Catalog] = read_catalog(OFFERED)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


def saved(**nodes: Any) -> Graph:
    """Return a graph whose one output needs all these nodes."""
    return nodes | {"save": node("SaveImage", **{f"of_{key}": [key, 0] for key in nodes})}


def models(graph: Graph, catalog: Catalog = CATALOG) -> tuple[str, ...]:
    return models_of(graph, catalog).models


def key(graph: Graph) -> str | None:
    return models_of(graph, CATALOG).key


FLUX: Final = saved(
    unet=node("UNETLoader", unet_name="flux1-dev.safetensors", weight_dtype="default"),
    clip=node("DualCLIPLoader", clip_name1="clip_l.safetensors", clip_name2="t5xxl_fp16.safetensors", type="flux"),
    vae=node("VAELoader", vae_name="ae.safetensors"),
    latent=node("EmptyLatentImage", width=1024, height=1024, batch_size=1),
    sampler=node("KSampler", model=["unet", 0], seed=1, steps=20, sampler_name="euler", scheduler="normal"),
)


def test_a_checkpoint_with_a_chain_of_loras() -> None:
    loras = [{"name": name, "strength_model": 0.8, "strength_clip": 1} for name in LORAS[:2]]
    found = models_of(text_to_image(loras=loras), CATALOG)
    assert found.models == (
        "checkpoints/sd_xl_base_1.0.safetensors", "loras/add_detail.safetensors", "loras/lcm.safetensors"
    )  # fmt: skip
    assert found.key is not None
    assert len(found.key) == 32
    weaker = [each | {"strength_model": 0.1} for each in loras]
    assert models_of(text_to_image(loras=weaker), CATALOG) == found, "how strong it acts needs no memory"


def test_flux_of_parts() -> None:
    assert models(FLUX) == (
        "diffusion_models/flux1-dev.safetensors",
        "text_encoders/clip_l.safetensors",
        "text_encoders/t5xxl_fp16.safetensors",
        "vaes/ae.safetensors",
    )


def test_a_video_model_with_clip_vision() -> None:
    graph = saved(
        unet=node("UNETLoader", unet_name="wan2.1_i2v.safetensors", weight_dtype="default"),
        clip=node("CLIPLoader", clip_name="umt5_xxl.safetensors", type="wan"),
        vae=node("VAELoader", vae_name="ae.safetensors"),
        vision=node("CLIPVisionLoader", clip_name="clip_vision_h.safetensors"),
    )
    assert models(graph) == (
        "CLIPVisionLoader.clip_name/clip_vision_h.safetensors",
        "diffusion_models/wan2.1_i2v.safetensors",
        "text_encoders/umt5_xxl.safetensors",
        "vaes/ae.safetensors",
    )


def test_a_controlnet_and_an_upscaler() -> None:
    graph = build_upscale_graph("a.png", "4x-UltraSharp.pth")
    assert models(graph) == ("upscalers/4x-UltraSharp.pth",)
    assert models(saved(net=node("ControlNetLoader", control_net_name="depth.pth"))) == ("controlnets/depth.pth",)


def test_custom_loaders_of_the_same_files_say_the_same() -> None:
    plain = node("CLIPLoader", clip_name="t5xxl_fp16.safetensors", type="sd3")
    theirs = node("CLIPLoaderGGUF", clip_name="t5xxl_fp16.safetensors", type="sd3")
    assert models(saved(a=plain)) == models(saved(a=theirs)) == ("text_encoders/t5xxl_fp16.safetensors",)
    ours = [node(name, unet_name=GGUF[0]) for name in ("UnetLoaderGGUF", "UnetLoaderGGUFAdvanced")]
    assert models(saved(a=ours[0])) == models(saved(b=ours[1])) == (f"UnetLoaderGGUF.unet_name/{GGUF[0]}",)


def test_a_stack_with_empty_slots() -> None:
    graph = saved(stack=node("LoRA Stacker", lora_01="None", lora_02="lcm.safetensors", strength_01=1.0))
    assert models(graph) == ("loras/lcm.safetensors",)
    other = saved(stack=node("LoRA Stacker", lora_01="lcm.safetensors", lora_02="None"))
    assert key(other) == key(graph), "in whichever slot it is"
    none = saved(stack=node("LoRA Stacker", lora_01="None", lora_02="None"))
    assert models_of(none, CATALOG) == LoadedModels((), None)


def test_a_stack_of_entries_in_inputs_that_are_not_described() -> None:
    def entry(name: str, *, on: bool) -> dict[str, Any]:
        return {"on": on, "lora": name, "strength": 1}

    power = node(
        "Power Lora Loader (rgthree)",
        PowerLoraLoaderHeaderWidget={"type": "PowerLoraLoaderHeaderWidget"},
        lora_1=entry("lcm.safetensors", on=True),
        lora_2=entry("add_detail.safetensors", on=False),
        lora_3=entry("not there.safetensors", on=True),
    )
    assert models(saved(power=power)) == ("loras/lcm.safetensors",)
    wrapped = {"__value__": [{"name": "lcm.safetensors", "active": True}, {"name": LORAS[1], "active": False}]}
    assert models(saved(power=node("Lora Manager", loras=wrapped))) == ("loras/lcm.safetensors",)


def test_a_name_that_is_in_two_folders_is_two_models() -> None:
    graph = saved(
        a=node("CheckpointLoaderSimple", ckpt_name="same.safetensors"),
        b=node("LoraLoader", lora_name="same.safetensors"),
    )
    assert models(graph) == ("checkpoints/same.safetensors", "loras/same.safetensors")


def test_folders_that_hold_the_same_names_are_told_apart_by_the_inputs_name() -> None:
    one = ["diffusion_pytorch_model.safetensors"]
    catalog = read_catalog(
        {
            "UNETLoader": a_class(unet_name=one),
            "VAELoader": a_class(vae_name=one),
            "Their VAE loader": custom(vae_name=one),
        }
    )
    graph = {"a": node("UNETLoader", unet_name=one[0]), "b": node("VAELoader", vae_name=one[0])}
    assert models(graph, catalog) == (f"diffusion_models/{one[0]}", f"vaes/{one[0]}")
    assert models({"a": node("Their VAE loader", vae_name=one[0])}, catalog) == (f"vaes/{one[0]}",)


def test_a_name_does_not_depend_on_what_else_a_backend_has() -> None:
    more = OFFERED | {
        "LoraLoader": a_class(lora_name=[*LORAS, "new.safetensors"]),
        "Another": custom(a_lora=[*LORAS, "new.safetensors"]),
    }
    graph = saved(a=node("LoraLoader", lora_name="lcm.safetensors"))
    assert models_of(graph, read_catalog(more)) == models_of(graph, CATALOG)


@pytest.mark.parametrize(
    "other",
    [
        node("LoadImage", image="smuggled.safetensors"),
        node("Mixed", file="weights.bin"),
        node("VAELoader", vae_name="taesd"),
        node("KSampler", sampler_name="euler"),
        node("CLIPTextEncode", text="flux1-dev.safetensors in a prompt"),
    ],
)
def test_what_names_no_model(other: dict[str, Any]) -> None:
    assert models_of(saved(a=other), CATALOG) == LoadedModels((), None)


def test_a_name_that_another_node_holds() -> None:
    graph = saved(name=node("PrimitiveString", value="same.safetensors"), a=node("LoraLoader", lora_name=["name", 0]))
    assert models(graph) == ("loras/same.safetensors",), "not the checkpoint that is called so too"
    plain = saved(a=node("LoraLoader", lora_name="same.safetensors"))
    assert key(graph) == key(plain)
    assert models(saved(a=node("LoraLoader", lora_name=["gone", 0]))) == ()


def test_only_what_an_output_needs_counts() -> None:
    unused = node("CheckpointLoaderSimple", ckpt_name="old.ckpt")
    assert models_of(FLUX | {"unused": unused}, CATALOG) == models_of(FLUX, CATALOG)
    assert models({"a": unused}) == ("checkpoints/old.ckpt",), "where no output is known all of them count"


def test_how_models_lie_in_memory_is_another_key_and_not_other_models() -> None:
    for where, name, value in [
        ("unet", "weight_dtype", "fp8_e4m3fn"),
        ("clip", "type", "sdxl"),
        ("clip", "device", "cpu"),
    ]:
        changed = with_input(FLUX, where, name, value)
        assert models(changed) == models(FLUX)
        assert key(changed) != key(FLUX)


def with_input(graph: Graph, where: str, name: str, value: Any) -> Graph:
    changed = copy.deepcopy(graph)
    changed[where]["inputs"][name] = value
    return changed


@given(st.permutations(list(FLUX)), st.integers(0, 2**64 - 1), st.integers(64, 4096), st.text(max_size=20))
@settings(max_examples=30, deadline=None)
def test_ids_order_titles_seeds_sizes_and_prompts_change_nothing(
    order: list[str], seed: int, size: int, text: str
) -> None:
    graph = with_input(with_input(FLUX, "sampler", "seed", seed), "latent", "width", size)
    graph["sampler"]["inputs"]["sampler_name"] = "ddim"
    graph["save"]["inputs"]["filename_prefix"] = text
    graph["unet"]["_meta"] = {"title": text}
    ids = {each: str(number) for number, each in enumerate(order)}
    renumbered = {
        ids[each]: graph[each]
        | {
            "inputs": {
                name: [ids[value[0]], value[1]] if isinstance(value, list) else value
                for name, value in graph[each]["inputs"].items()
            }
        }
        for each in order
    }
    found, known = models_of(renumbered, CATALOG), models_of(FLUX, CATALOG)
    assert (found.models, found.key) == (known.models, known.key)
    assert sorted(found.loaders) == sorted(ids[each] for each in known.loaders)


@given(st.sampled_from([("unet", "unet_name", UNETS), ("clip", "clip_name2", CLIPS)]), st.integers(0, 1))
def test_another_file_is_another_model_and_another_key(place: tuple[str, str, list[str]], number: int) -> None:
    where, name, files = place
    others = [each for each in files if each not in FLUX[where]["inputs"].values()]
    changed = with_input(FLUX, where, name, others[number % len(others)])
    assert models(changed) != models(FLUX)
    assert key(changed) != key(FLUX)


ODD: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from([*LORAS[:3], "a", "\ud800.bin"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "on", "__value__"]), inner),
    max_leaves=12,
)
NODES: Final = st.fixed_dictionaries(
    {
        "class_type": st.sampled_from([*OFFERED]) | ODD,
        "inputs": st.dictionaries(st.sampled_from(["lora_name", "x"]), ODD) | ODD,
    }
)


@given(st.dictionaries(st.sampled_from("abc"), NODES | ODD))
@settings(deadline=None)
def test_any_graph_is_answered_within_bounds(graph: Graph) -> None:
    found = models_of(graph, CATALOG)
    assert (found.key is None) == (not found.models)
    assert all(len(each) <= MOST_CHARS and each.isprintable() for each in found.models)


def test_what_comes_from_outside_is_bounded() -> None:
    many = saved(**{f"n{n}": node("LoraLoader", lora_name=name) for n, name in enumerate(LORAS)})
    assert len(models(many)) == MOST_MODELS
    long = [f"{'x' * 300}{number}.safetensors" for number in range(2)]
    catalog = read_catalog({"LoraLoader": a_class(lora_name=[*long, "\ud800\0.safetensors"])})
    graph = {str(n): node("LoraLoader", lora_name=name) for n, name in enumerate([*long, "\ud800\0.safetensors"])}
    found = models(graph, catalog)
    assert len(set(found)) == 3
    assert all(len(each) <= MOST_CHARS and each.isprintable() and each.startswith("loras/") for each in found)
    deep: Any = "lcm.safetensors"
    for _ in range(5000):
        deep = [[deep]]
    assert models(saved(a=node("Power Lora Loader (rgthree)", stack=deep))) == ("loras/lcm.safetensors",)
