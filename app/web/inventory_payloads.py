"""What the API answers about models and node classes, as models: they make the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class ModelAnswer(BaseModel):
    """A file, a sampler or a scheduler."""

    name: str = Field(description="As a workflow names it.")
    backends: list[str] = Field(description="The backends where it is.")
    warm_on: list[str] | None = Field(
        description="The backends that probably have it in memory, because a recent run used it. Null of samplers and "
        "schedulers."
    )


class ModelsAnswer(BaseModel):
    """Models over all backends; with `kind` in the query only the lists that were asked for."""

    live: bool = Field(description="False when no backend is alive: they are then listed as they were last seen.")
    backends: list[str] = Field(description="The backends whose models are listed.")
    checkpoints: list[ModelAnswer] = []
    loras: list[ModelAnswer] = []
    vaes: list[ModelAnswer] = []
    upscalers: list[ModelAnswer] = []
    controlnets: list[ModelAnswer] = []
    diffusion_models: list[ModelAnswer] = []
    text_encoders: list[ModelAnswer] = []
    samplers: list[ModelAnswer] = []
    schedulers: list[ModelAnswer] = []


class NodeListed(BaseModel):
    """A node class in a list, as the first backend that has it describes it."""

    node_class: str = Field(serialization_alias="class")
    display_name: str = Field(description="As ComfyUI's own page calls it; the class where that is not told.")
    category: str
    output_node: bool = Field(description="A workflow needs at least one such node.")
    core: bool = Field(description="It is ComfyUI's own.")
    backends: list[str]


class NodeListAnswer(BaseModel):
    """A page of the node classes, in the order of their names."""

    live: bool = Field(description="False when no backend is alive: they are then listed as they were last seen.")
    backends: list[str] = Field(description="The backends whose classes are listed.")
    total: int = Field(description="How many classes there are beyond this page too.")
    limit: int
    next_cursor: str | None = Field(description="Leads to the classes that follow; null at the end of the list.")
    items: list[NodeListed]


class GrowsOption(BaseModel):
    """A choice with which inputs come."""

    value: Any
    inputs: list[NodeInput]


class Grows(BaseModel):
    """How other inputs come of one."""

    by: Literal["links", "choice", "presence"] = Field(
        description="links: in its place stand as many inputs as are linked. choice: its value decides which there "
        "are. presence: they come when it is given."
    )
    names: list[str] = Field(description="Of `links`: all inputs that there can be.")
    least: int = Field(description="Of `links`: so many of them are required.")
    options: list[GrowsOption] = Field(description="Of `choice`.")
    inputs: list[NodeInput] = Field(description="Of `presence`; of `links` the first, which all others are like.")


class NodeInput(BaseModel):
    """An input of a node class; null is what a backend does not tell."""

    name: str
    type: str = Field(description="COMBO where the value is one of `choices`; * takes any.")
    required: bool
    default: Any
    min: int | float | None
    max: int | float | None
    step: int | float | None
    choices: list[Any] | None = Field(description="The first 1,000.")
    choices_count: int | None = Field(description="How many there are.")
    multiselect: bool
    uploads: Literal["image", "video", "audio", "file", "remote"] | None = Field(
        description="The kind of file that is uploaded for it; remote: its choices come from another server."
    )
    folder: str | None = Field(description="ComfyUI's folder that the choices are in: input, output or temp.")
    grows: Grows | None


class NodeOutput(BaseModel):
    """An output of a node class."""

    name: str
    type: str
    is_list: bool
    choices: list[Any] | None
    choices_count: int | None


class NodeDescription(NodeListed):
    """A node class as some backends describe it."""

    inputs: list[NodeInput]
    outputs: list[NodeOutput] | None = Field(description="Null when it does not say.")


class NodeAnswer(NodeDescription):
    """A node class as most of its backends describe it."""

    live: bool = Field(description="False when no backend is alive: it is then described as it was last seen.")
    differs: bool = Field(description="Not all of its backends describe it alike: they may have other files.")
    descriptions: list[NodeDescription] = Field(description="If they differ, each one with its backends.")
