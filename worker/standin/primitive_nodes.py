"""Node types that hold one value, or put texts together."""

import string
from collections.abc import Mapping
from typing import Any, Final

from worker.standin.growing_inputs import growing
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result
from worker.standin.versions import GROWING_INPUTS

_MOST: Final = 2**63 - 1


async def _value(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((inputs["value"],))


async def _concatenate(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((inputs["delimiter"].join((inputs["string_a"], inputs["string_b"])),))


async def _format(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((inputs["f_string"].format(**inputs["values"]),))


def primitive_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    number = {"min": -_MOST, "max": _MOST}
    text = Input("STRING", {"multiline": True})
    return [
        _primitive("PrimitiveString", "String", Input("STRING", {"multiline": False})),
        _primitive("PrimitiveStringMultiline", "String (Multiline)", text),
        _primitive("PrimitiveInt", "Int", Input("INT", {**number, "control_after_generate": True})),
        _primitive("PrimitiveFloat", "Float", Input("FLOAT", number)),
        _primitive("PrimitiveBoolean", "Boolean", Input("BOOLEAN", {})),
        NodeType(
            name="StringConcatenate",
            display_name="Concatenate",
            category="utils/string",
            python_module="comfy_extras.nodes_string",
            modern=True,
            function="execute",
            run=_concatenate,
            required={"string_a": text, "string_b": text, "delimiter": Input("STRING", {"default": ""})},
            outputs=("STRING",),
        ),
        NodeType(
            name="StringFormat",
            display_name="Format Text",
            category="text",
            python_module="comfy_extras.nodes_string",
            modern=True,
            since=GROWING_INPUTS,
            function="execute",
            run=_format,
            required={
                "values": growing(Input("*", {}), list(string.ascii_lowercase), least=0),
                "f_string": Input("STRING", {"default": "{a}", "multiline": True}),
            },
            outputs=("STRING",),
        ),
    ]


def _primitive(name: str, display_name: str, value: Input) -> NodeType:
    """Return a node type that gives on its one value."""
    return NodeType(
        name=name,
        display_name=display_name,
        category="utils/primitive",
        python_module="comfy_extras.nodes_primitive",
        modern=True,
        function="execute",
        run=_value,
        required={"value": value},
        outputs=(str(value.kind),),
    )
