"""Node types of sampling in single steps: noise, guider, sampler and sigmas of their own."""

from collections.abc import Mapping
from typing import Any

from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result, choice, decimal, integer
from worker.standin.sampling_nodes import SAMPLERS, SCHEDULERS, sample
from worker.standin.values import Conditioning


async def _give(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Return the inputs themselves: what they mean is known to the sampler."""
    return Result((dict(inputs),))


async def _sample(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    guider, sigmas = inputs["guider"], inputs["sigmas"]
    sampled = await sample(
        run,
        {
            "latent_image": inputs["latent_image"],
            "model": guider["model"],
            "positive": guider["conditioning"],
            "negative": Conditioning(""),
            "seed": inputs["noise"]["noise_seed"],
            "cfg": 1.0,
            "steps": sigmas["steps"],
            "denoise": sigmas["denoise"],
        },
    )
    return Result((sampled.outputs[0], sampled.outputs[0]))


def custom_sampling_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    model = Input("MODEL")
    scheduled = {
        "model": model,
        "scheduler": choice(SCHEDULERS),
        "steps": integer(20, 1, 10_000),
        "denoise": decimal(1.0, 0.0, 1.0, step=0.01),
    }
    latent = {"latent_image": Input("LATENT")}
    parts = {"noise": "NOISE", "guider": "GUIDER", "sampler": "SAMPLER", "sigmas": "SIGMAS"}
    sampler = {name: Input(kind) for name, kind in parts.items()} | latent
    seed = integer(0, 0, 2**64 - 1, control_after_generate=True)
    return [
        _node_type("RandomNoise", {"noise_seed": seed}, "NOISE"),
        _node_type("BasicGuider", {"model": model, "conditioning": Input("CONDITIONING")}, "GUIDER"),
        _node_type("KSamplerSelect", {"sampler_name": choice(SAMPLERS)}, "SAMPLER"),
        _node_type("BasicScheduler", scheduled, "SIGMAS"),
        NodeType(
            name="SamplerCustomAdvanced",
            category="sampling/custom_sampling",
            python_module="comfy_extras.nodes_custom_sampler",
            run=_sample,
            required=sampler,
            outputs=("LATENT", "LATENT"),
            output_names=("output", "denoised_output"),
        ),
    ]


def _node_type(name: str, required: Mapping[str, Input], output: str) -> NodeType:
    """Return a node type that passes its inputs on."""
    return NodeType(
        name=name,
        category="sampling/custom_sampling",
        python_module="comfy_extras.nodes_custom_sampler",
        run=_give,
        required=required,
        outputs=(output,),
    )
