"""Which inputs of which node classes name model files, told from what a backend offers to choose from.

`/object_info` says of no input from which folder its choices are. So an input names models when most of the files that
it offers look like model files, whatever its class; lists of core and custom loaders are told alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from app.domain.model_lists import CHOSEN_IN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from app.domain.node_classes import InputSpec, NodeClass

_ENDINGS: Final = (
    ".safetensors",
    ".sft",
    ".ckpt",
    ".pt",
    ".pt2",
    ".pth",
    ".bin",
    ".pkl",
    ".gguf",
    ".onnx",
    ".engine",
)
_LONGEST_ENDING: Final = 5
"""Characters after the last dot of a file's name, of which some count as an ending when they are no model's."""

Files = frozenset[str]


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input that names model files, and the folders from which they are."""

    folders: tuple[tuple[Files, str], ...]
    """Well-known folders that are in its list as a whole, each with its files."""
    own: str
    """The folder of its other files: named after the first input that has the same list."""

    def names(self, file: str) -> str:
        """Return the text that names this file uniquely: `loras/x.safetensors`."""
        for files, folder in self.folders:
            if file in files:
                return f"{folder}/{file}"
        return f"{self.own}/{file}"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """All that a backend's node classes tell of its model files."""

    inputs: Mapping[str, Mapping[str, ModelInput]]
    """Class → input → where its files are."""
    known: Mapping[str, ModelInput]
    """File → an input that offers it: for names in inputs of which no choices are told, such as stacks of LoRAs."""


def looks_like_model(name: str) -> bool:
    """Whether a text ends like a model file's name."""
    return name.lower().endswith(_ENDINGS)


def stem(name: str) -> str:
    """Return an input's name without its number: the slots of a stack, and the two CLIPs of a loader, are alike."""
    return name.rstrip("0123456789").rstrip("_") or name


def read_model_files(nodes: Mapping[str, NodeClass]) -> ModelFiles:
    """Return what these classes tell of model files.

    A folder is known by its list: every loader of it offers the same files. It is called what `CHOSEN_IN` calls it
    when the whole list of that loader is among the choices, which some custom loaders add other files to; else after
    the first input that has just these choices. So a name does not depend on what else is in the folder, and mostly
    not on which custom nodes are installed: it says the same on other backends. Of two folders that hold exactly the
    same names, an input whose name does not tell them apart is taken for the first.
    """
    found = _read_lists(nodes)
    anchors = [(found[place], folder, stem(place[1])) for folder, place in CHOSEN_IN.items() if place in found]
    own: dict[Files, str] = {}
    for node_class, name in sorted(found, key=lambda place: (not nodes[place[0]].is_core, place)):
        own.setdefault(found[node_class, name], f"{node_class}.{stem(name)}")
    inputs: dict[str, dict[str, ModelInput]] = {}
    alike: dict[tuple[Files, str], ModelInput] = {}
    for (node_class, name), files in found.items():
        kind = files, stem(name)
        if kind not in alike:
            folders = [each for each in anchors if each[0] <= files]
            folders.sort(key=lambda each: each[2] != kind[1])
            alike[kind] = ModelInput(tuple((each[0], each[1]) for each in folders), own[files])
        inputs.setdefault(node_class, {})[name] = alike[kind]
    return ModelFiles(inputs, _known(anchors, alike))


def _known(
    anchors: Sequence[tuple[Files, str, str]],
    alike: Mapping[tuple[Files, str], ModelInput],
) -> dict[str, ModelInput]:
    """Return each file with an input that offers it, in an order that is the same on all backends: folders first."""
    first = [(files, name) for files, _, name in anchors]
    others = sorted((each for each in alike if each not in first), key=lambda each: (alike[each].own, each[1]))
    known: dict[str, ModelInput] = {}
    for files, name in (*first, *others):
        for file in files:
            known.setdefault(file, alike[files, name])
    return known


def _read_lists(nodes: Mapping[str, NodeClass]) -> dict[tuple[str, str], Files]:
    """Return (class, input) → the model files among its choices, of inputs that name models."""
    # The same list stands in many loaders: it is kept once.
    kept: dict[Files, Files] = {}
    found = {}
    for node_class, node in nodes.items():
        for spec in node.inputs.values():
            if spec.choices and not spec.uploads and not spec.folder and (files := _model_files(spec)):
                found[node_class, spec.name] = kept.setdefault(files, files)
    return found


def _model_files(spec: InputSpec) -> Files:
    """Return the model files among the choices; nothing when most of the files there are others.

    Words such as `None`, or the built-in `taesd` beside a single VAE, are no files and do not count.
    """
    texts = [each for each in spec.choices or () if isinstance(each, str)]
    models = frozenset(filter(looks_like_model, texts))
    others = sum(_is_file(each) for each in texts if each not in models) if models else 0
    return models if len(models) > others else frozenset()


def _is_file(choice: str) -> bool:
    ending = choice.rpartition(".")[2]
    return len(ending) < len(choice) and ending.isalnum() and not ending.isdigit() and len(ending) <= _LONGEST_ENDING
