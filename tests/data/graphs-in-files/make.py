"""Has a ComfyUI make the files of this folder anew: `python make.py new=http://127.0.0.1:8188`; see README.md."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

HERE = Path(__file__).parent


def ask(url: str, body: Any = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data)) as answer:  # noqa: S310 - one's own server
        return bytes(answer.read())


def made(url: str, prompt: dict[str, Any], extra: dict[str, Any]) -> bytes:
    """Return the last file that a graph leaves."""
    told = json.loads(ask(f"{url}/prompt", {"prompt": prompt, "extra_data": {"extra_pnginfo": extra}}))
    while not (entry := json.loads(ask(f"{url}/history/{told['prompt_id']}")).get(told["prompt_id"])):
        time.sleep(0.05)
    (files,) = [value for shown in entry["outputs"].values() for value in shown.values() if isinstance(value[0], dict)]
    return ask(f"{url}/view?{urlencode(files[-1])}")


def main() -> None:
    told = json.loads((HERE / "graphs.json").read_text(encoding="utf-8"))
    for version, _, url in (each.partition("=") for each in sys.argv[1:]):
        offered = json.loads(ask(f"{url}/object_info"))
        for name, prompt in told["prompts"].items():
            if name.startswith(version) and all(node["class_type"] in offered for node in prompt.values()):
                extra = {} if name.endswith("-plain.png") else told["extra_pnginfo"]
                (HERE / name).write_bytes(made(url, prompt, extra))
                print(name)


if __name__ == "__main__":
    main()
