"""The folders of the server, how new files are named, and which paths are refused."""

import datetime
import mimetypes
import os.path
import posixpath
import re
import secrets
import shutil
import string
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

FOLDERS = ("output", "input", "temp")


class OutsideFolderError(Exception):
    """A file name or prefix leads out of its folder."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where the files of one save go: folder, name without number, first free number."""

    folder: Path
    subfolder: str
    name: str
    counter: int

    def path(self, offset: int, suffix: str, *, newer: bool = False) -> Path:
        """Return the path of the file `offset` places after the first; newer savers put nothing behind the number."""
        name = self.name.replace("%batch_num%", str(offset))
        end = "" if newer else "_"
        return self.folder / f"{name}_{self.counter + offset:05}{end}{suffix}"


def annotated(name: str) -> tuple[str, str | None]:
    """Return a name without the bracket that names its folder, and that folder; with the bracket a space is cut off.

    As in ComfyUI, whatever stands in the place of that space is cut off too.
    """
    for kind in FOLDERS:
        if name.endswith(f"[{kind}]"):
            return name[: -len(kind) - 3], kind
    return name, None


class Folders:
    """`output`, `input` and `temp` below one directory."""

    def __init__(self, base: Path, *, closed: bool = True) -> None:
        self._base = base
        self._closed = closed
        """Whether a loader finds only what is in the folder that it names, as from 0.33 on. Before, a name could lead
        anywhere; here it never leads out of the directory that holds the folders."""

    def prepare(self) -> None:
        """Make the folders; what is temporary does not survive a start."""
        shutil.rmtree(self._base / "temp", ignore_errors=True)
        for name in FOLDERS:
            (self._base / name).mkdir(parents=True, exist_ok=True)

    def folder(self, kind: str) -> Path | None:
        """Return the folder of this name, or None if there is none."""
        return self._base / kind if kind in FOLDERS else None

    def inside(self, kind: str, subfolder: str) -> Path:
        """Return the path of a subfolder.

        Raises
        ------
        OutsideFolderError
            If it is not inside the folder.
        ValueError
            If the folder is none of ours or the path cannot be one (a NUL).
        """
        root = self.folder(kind)
        if root is None:
            raise ValueError(f"Unknown folder {kind}")
        if PurePosixPath(subfolder).is_absolute() or ".." in PurePosixPath(subfolder).parts:
            raise OutsideFolderError(subfolder)
        return root / subfolder

    def empty(self, kind: str) -> None:
        """Delete whatever is in a folder, as somebody may do while the server runs."""
        for path in (self._base / kind).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def input_files(self, *media: str, suffix: str | tuple[str, ...] = "") -> list[str]:
        """Return the names of the files that a loader offers: those at the top of the input folder.

        `media` are the beginnings of their MIME types, of which any will do, none meaning all; `suffix` is what the
        names must end with.
        """
        names = sorted(path.name for path in (self._base / "input").iterdir() if path.is_file())
        return [name for name in names if name.endswith(suffix) and (not media or _medium(name) in media)]

    def input_path(self, name: str) -> Path:
        """Return the path of a file that a loader names; the folder may stand behind the name, in brackets.

        Raises
        ------
        OutsideFolderError
            If it is outside; the message is ComfyUI's.
        AttributeError
            If the name is no text.
        """
        plain, kind = annotated(name)
        folder = self._base / (kind or "input")
        path = Path(os.path.normpath(folder / plain))
        root = (folder if self._closed else self._base).resolve()
        try:
            inside = path.resolve().is_relative_to(root)
        except (OSError, ValueError):  # a NUL, a lone surrogate, or too long
            inside = False
        if not inside:
            raise OutsideFolderError(f"Invalid file path: {plain!r}")
        return path

    def upload_folder(self, kind: str, subfolder: str, name: str) -> Path:
        """Return the folder that an upload goes to. Subfolder and name may lead up again, if both together end inside.

        Raises
        ------
        OutsideFolderError
            If they do not.
        """
        root = (self._base / kind).absolute()
        folder = root / os.path.normpath(subfolder)
        if not Path(os.path.normpath(folder / name)).is_relative_to(root):
            raise OutsideFolderError(name)
        return folder

    def target(self, prefix: str, kind: str, size: tuple[int, int]) -> Target:
        """Return where the next files with this prefix go, and make the folder.

        Raises
        ------
        OutsideFolderError
            If the prefix leads out of the folder; the message shows the path, as ComfyUI's does.
        OSError, ValueError
            If the name cannot be a file's.
        """
        path = PurePosixPath(posixpath.normpath(_filled_in(prefix, size)))
        subfolder = "" if str(path.parent) == "." else str(path.parent)
        name = path.name or "."
        if path.is_absolute() or ".." in path.parts:
            where = (self._base / kind / subfolder).as_posix()
            raise OutsideFolderError(
                f"Saving outside the output folder is not allowed.\n full_output_folder: {where}\n"
                f" output_dir: {(self._base / kind).as_posix()}"
            )
        folder = self._base / kind / subfolder
        folder.mkdir(parents=True, exist_ok=True)
        return Target(folder, subfolder, name, _next_number(folder, name))

    def temporary_prefix(self, name: str = "ComfyUI") -> str:
        """Return a prefix for a preview, with five letters that no other start of the server has."""
        return f"{name}_temp_" + "".join(secrets.choice(string.ascii_lowercase) for _ in range(5))


def _medium(name: str) -> str:
    """Return the first part of the MIME type that a name stands for; nothing, if it stands for none."""
    guessed = mimetypes.guess_type(name, strict=False)[0] or ""
    return guessed.partition("/")[0]


def _next_number(folder: Path, name: str) -> int:
    """Return the highest number present for `name` plus one."""
    pattern = re.compile(re.escape(name).replace("%batch_num%", r"\d+") + r"_(\d+)_?\.")
    matches = (pattern.match(path.name) for path in folder.iterdir())
    return max((int(match[1]) for match in matches if match), default=0) + 1


def _filled_in(prefix: str, size: tuple[int, int]) -> str:
    """Return the prefix with its placeholders replaced."""
    now = datetime.datetime.now().astimezone()
    values = {
        "%width%": str(size[0]),
        "%height%": str(size[1]),
        "%year%": str(now.year),
        "%month%": f"{now.month:02}",
        "%day%": f"{now.day:02}",
        "%hour%": f"{now.hour:02}",
        "%minute%": f"{now.minute:02}",
        "%second%": f"{now.second:02}",
    }
    for placeholder, value in values.items():
        prefix = prefix.replace(placeholder, value)
    return prefix
