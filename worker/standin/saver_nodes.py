"""Node types that save pictures as careless custom nodes do: under names of their own, over each other's files."""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from worker.standin.image_nodes import png_bytes, prefix_input
from worker.standin.node_run import NodeRun
from worker.standin.nodes import Input, NodeType, Result, Run, decimal
from worker.standin.values import Images

FIXED_NAME: Final = "noname_fixed.png"
"""What a saver without a name writes, each time."""

IGNORANT_NAME: Final = "ignored_prefix.png"
"""What a saver writes that asks for a prefix and does not use it."""


async def _save_by_name(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return await _save_as(run, inputs["images"], f"{inputs['name']}.png")


async def _save_without_name(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return await _save_as(run, inputs["images"], FIXED_NAME)


async def _save_by_path(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return await _save_as(run, inputs["images"], f"custom/{inputs['path']}.png")


async def _save_by_file_name(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return await _save_as(run, inputs["images"], inputs["output_file"])


async def _save_ignorantly(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    return await _save_as(run, inputs["images"], IGNORANT_NAME)


async def _save_counted(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Save like SaveImage, with a counter in a folder that nobody else can name."""
    images: Images = inputs["images"]
    target = run.folders.target(inputs["path"], "output", images[0].size)
    names = []
    for offset, picture in enumerate(images):
        path = target.path(offset, ".png")
        await run.in_thread(_write, path, png_bytes(picture))
        run.saved(target.subfolder, path.name)
        names.append(_named(target.subfolder, path.name))
    return Result(ui={"images": names})


async def _save_late(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Name a file of which half is there; the rest comes `seconds` after the node's end."""
    data = await run.in_thread(png_bytes, inputs["images"][0])
    path, named = _place(run, f"{inputs['name']}.png")
    await run.in_thread(_write, path, data[: len(data) // 2])
    run.afterwards(inputs["seconds"], _write, path, data)
    return Result(ui={"images": [named]})


async def _save_and_delete(run: NodeRun, inputs: Mapping[str, Any]) -> Result:
    """Name a file that is gone before anybody can ask for it."""
    path, named = _place(run, f"{inputs['name']}.png")
    await run.in_thread(_write, path, png_bytes(inputs["images"][0]))
    await run.in_thread(path.unlink)
    return Result(ui={"images": [named]})


async def _save_as(run: NodeRun, images: Images, name: str) -> Result:
    """Write the first picture under this name, over whatever is there."""
    path, named = _place(run, name)
    await run.in_thread(_write, path, png_bytes(images[0]))
    return Result(ui={"images": [named]})


def _place(run: NodeRun, name: str) -> tuple[Path, dict[str, str]]:
    """Return where a file of this name goes, and how it is named to clients."""
    subfolder, _, plain = name.rpartition("/")
    path = run.folders.inside("output", subfolder) / PurePosixPath(plain).name
    run.saved(subfolder, plain)
    return path, _named(subfolder, plain)


def _named(subfolder: str, name: str) -> dict[str, str]:
    return {"filename": name, "subfolder": subfolder, "type": "output"}


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def saver_node_types() -> list[NodeType]:
    """Return the node types of this module."""
    return [
        _saver("FixedNameSaver", _save_by_name, {"name": _text_input("fixed")}),
        _saver("NoNameSaver", _save_without_name, {}),
        _saver("PathSaver", _save_by_path, {"path": _text_input("x")}),
        _saver("OutputFileSaver", _save_by_file_name, {"output_file": _text_input("renders/picture.png")}),
        _saver("PrefixIgnoringSaver", _save_ignorantly, {"filename_prefix": prefix_input()}),
        _saver("CounterSaver", _save_counted, {"path": _text_input("counter")}),
        _saver(
            "LateWriter",
            _save_late,
            {"name": _text_input("late"), "seconds": decimal(2.0, 0.0, 3600.0, step=0.01)},
        ),
        _saver("VanishingSaver", _save_and_delete, {"name": _text_input("gone")}),
    ]


def _text_input(default: str) -> Input:
    return Input("STRING", {"default": default})


def _saver(name: str, run: Run, required: Mapping[str, Input]) -> NodeType:
    """Return an output node that takes pictures."""
    return NodeType(
        name=name,
        run=run,
        required={"images": Input("IMAGE"), **required},
        output_node=True,
        category="acceptance",
        python_module="custom_nodes.saver_nodes",
    )
