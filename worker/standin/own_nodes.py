"""Node types like those of custom packs, for our tests: own validation, unusual results, inputs of any type."""

import io
import json
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from worker.standin.acceptance_nodes import pass_on, raise_error, slow_progress
from worker.standin.growing_inputs import CHOOSES, GROWS
from worker.standin.mask_nodes import as_pictures
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeOutOfMemoryError, NodeType, Result, Run, choice, decimal, integer

_SVG: Final = b'<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>'

_ODD: Final[Mapping[str, dict[str, Any]]] = {
    "number": {"number": [42]},
    "bool": {"bool": [True]},
    "dict": {"json": [{"a": 1}]},
    "string": {"string": ["hello"]},
    "value": {"value": ["some text"]},
    "mixed": {"text": ["hello", 5, None, {"a": 1}]},
    "tags": {"tags": ["1girl, solo"]},
    "gif": {"gifs": [{"filename": "nothere.mp4", "subfolder": "", "type": "output", "format": "video/h264-mp4"}]},
    "letters": {"text": "A cat sits on the mat."},
    "empty": {"text": [""]},
    "nested": {"boxes": [[[1, 2], [3, 4]], []]},
}
"""What the node of odd answers says."""


async def _text(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((inputs["text"],), {"text": [inputs["text"]]})


async def _give_anything(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((inputs["anything"],))


async def _give_a(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((as_pictures(inputs["a"]),))


async def _give_value(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((as_pictures(inputs["value"]),))


async def _give_twice(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((inputs["v"], inputs["v"]))


async def _join(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((tuple(picture for value in inputs.values() if isinstance(value, tuple) for picture in value),))


async def _say_nothing(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result()


async def _answer_oddly(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result(ui=_ODD[inputs["what"]])


async def _answer_as_told(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result(ui=json.loads(inputs["ui"]), raw=inputs["raw"])


async def _need_workflow(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Read what the editor puts into `extra_pnginfo`, and fail without it."""
    run.extra_data.get("extra_pnginfo")["workflow"]["nodes"]
    return Result((inputs["image"],))


async def _save_anywhere(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Save under a name of its own, over whatever is there."""
    folder = run.folders.inside("output", "custom")
    name = f"{inputs['path']}.jpg"
    await run.in_thread(lambda: folder.mkdir(parents=True, exist_ok=True))
    await run.in_thread((folder / name).write_bytes, _jpeg(inputs["images"][0]))
    run.saved("custom", name)
    return Result(ui={"images": [{"filename": name, "subfolder": "custom", "type": "output"}]})


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG")
    return buffer.getvalue()


async def _make_list(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    pictures = [Image.new("RGB", (32, 32 + 8 * index), (25 * index,) * 3) for index in range(inputs["n"])]
    return Result(([(picture,) for picture in pictures],))


async def _make_mesh(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result(("mesh",))


async def _make_svg(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return Result((_SVG,))


async def _run_out_of_memory(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    raise NodeOutOfMemoryError("own: out of memory")


def own_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    text = Input("STRING", {"multiline": True})
    ab = choice(["a", "b"])
    speed = {"steps": integer(10, 1, 1000), "seconds_per_step": decimal(0.2, 0, 60, step=0.01)}
    hidden = {"unique_id": "UNIQUE_ID", "prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
    told = {"ui": text, "raw": Input("BOOLEAN", {"default": False})}
    option = {"key": "a", "inputs": {"required": {"width": Input("INT", {"min": 1})}}}
    members = {"template": {"input": {"required": {"x": Input("IMAGE", {})}}, "names": ["i0", "i1"], "min": 1}}
    return [
        _passing("OwnSlowProgress", speed, {"seed": integer(0, 0, 2**64 - 1)}, run=slow_progress),
        _passing("OwnRaise", {"message": Input("STRING", {"default": "boom"})}, run=raise_error),
        _passing("OwnOom", {"n": integer(0, 0, 2**31)}, run=_run_out_of_memory),
        _passing("OwnFreeCombo", {"mode": ab}, checked=frozenset({"mode"})),
        _passing("OwnNumberCombo", {"size": choice([64, 128, 256])}),
        _passing("OwnBoolCombo", {"flag": choice([True, False])}),
        _passing("OwnNoMin", {"n": integer(1, 0, 8)}, checked=frozenset({"n"})),
        _passing("OwnComboIn", {"mode": ab}),
        _passing("OwnNeedsWorkflow", {}, run=_need_workflow, hidden={"extra_pnginfo": "EXTRA_PNGINFO"}),
        _passing("OwnShort", {}, outputs=("IMAGE", "IMAGE")),
        _passing("OwnOptImage", {}, {"other": Input("IMAGE")}),
        _passing(
            "OwnDynCombo",
            {"mode": Input(CHOOSES, {"options": [option]})},
            {"more": Input(GROWS, members)},
            checks_all=True,
            takes_any=True,
            defaulted=frozenset({"mode"}),
        ),
        _own("OwnText", _text, {"text": text}, ("STRING",), output_node=True),
        _own(
            "OwnWildcard",
            _give_anything,
            {"anything": Input("*")},
            ("*",),
            optional={"list_value": Input("LIST_THING")},
            hidden=hidden,
            checks_all=True,
        ),
        _own("OwnAnyTypes", _give_a, {"a": Input("IMAGE")}, ("IMAGE",), checks_types=True),
        _own("OwnSpaced", _give_value, {"value": Input("IMAGE, MASK")}, ("IMAGE",)),
        _own("OwnKw", _join, {}, ("IMAGE",), takes_any=True),
        _own("OwnComboOut", _give_twice, {"v": ab}, (["a", "b"], "STRING")),
        _own("OwnListOut", _make_list, {"n": Input("INT", {"default": 3})}, ("IMAGE",), output_lists=(True,)),
        _own("OwnMesh", _make_mesh, {}, ("MESH",)),
        _own("OwnSvg", _make_svg, {}, ("SVG",)),
        _own("OwnNoUi", _say_nothing, {"image": Input("IMAGE")}, (), output_node=True),
        _own("OwnOddUi", _answer_oddly, {"what": choice(list(_ODD))}, (), output_node=True),
        _own("ToldUi", _answer_as_told, told, (), output_node=True),
        _own("OwnSaver", _save_anywhere, {"images": Input("IMAGE"), "path": Input("STRING")}, (), output_node=True),
    ]


def _passing(
    name: str,
    required: Mapping[str, Input],
    optional: Mapping[str, Input] | None = None,
    run: Run = pass_on,
    outputs: tuple[Any, ...] = ("IMAGE",),
    **more: Any,
) -> NodeType:
    """Return a node type that passes a picture on."""
    return _own(name, run, {"image": Input("IMAGE"), **required}, outputs, optional=optional or {}, **more)


def _own(name: str, run: Run, required: Mapping[str, Input], outputs: tuple[Any, ...], **more: Any) -> NodeType:
    """Return a node type of our own pack."""
    return NodeType(
        name=name,
        run=run,
        required=required,
        outputs=outputs,
        category="own",
        python_module="custom_nodes.nodes_own",
        **more,
    )
