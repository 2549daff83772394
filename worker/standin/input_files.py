"""How node types choose a file of the input folder: is it there, has it changed, and what is read of any file."""

import hashlib
import os
import uuid
import wave
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from worker.standin import tones
from worker.standin.files import Folders, OutsideFolderError
from worker.standin.values import Recipe, Sound

_SOUND_S: Final = 2.0
"""Length of what stands for a sound that cannot be decoded here."""
_UNREADABLE: Final = (OSError, LookupError, AttributeError, ValueError, OutsideFolderError)
"""What looking at a file raises when it is not there, or when its name is none."""


def input_checks(folders: Folders, node: str, name: str, what: str, *, by_date: bool = False) -> dict[str, Any]:
    """Return what a node type needs that checks by itself whether its input file is there, and notices new bytes.

    `node` is the function that checks, as a complaint names it, `name` the input, `what` the kind of file. `by_date`
    takes another date of the file for a change, whatever its bytes.
    """

    def check(inputs: Mapping[str, Any]) -> Mapping[str, str]:
        if name not in inputs:
            raise TypeError(f"{node}() missing 1 required positional argument: '{name}'")
        return {} if _is_there(folders, inputs[name]) else {name: f"Invalid {what} file: {inputs[name]}"}

    def digest(inputs: Mapping[str, Any]) -> object:
        try:
            return digest_of(folders.input_path(inputs[name]))
        except _UNREADABLE:
            return uuid.uuid4().hex  # ComfyUI takes a check that fails for a change

    def date(inputs: Mapping[str, Any]) -> object:
        try:
            return folders.input_path(inputs[name]).stat().st_mtime_ns
        except _UNREADABLE:
            return None

    return {"check": check, "fingerprint": date if by_date else digest, "checked": frozenset({name})}


def _is_there(folders: Folders, name: str) -> bool:
    """Tell whether a loader would find anything under a name, be it a folder."""
    try:
        return os.path.exists(folders.input_path(name))  # noqa: PTH110 - Path raises for a name that is too long
    except OutsideFolderError:
        return False


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file; it is read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_sound(path: Path) -> Sound:
    """Return the first channel of a file of 16-bit samples; of any other file a melody that its bytes decide."""
    try:
        with wave.open(str(path), "rb") as opened:
            samples = array("h", opened.readframes(opened.getnframes()))
            return Sound(samples[:: opened.getnchannels()], opened.getframerate())
    except (wave.Error, EOFError, ValueError):
        return tones.compose(Recipe(digest_of(path)), _SOUND_S)
