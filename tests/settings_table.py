"""The manual's table of settings, made from `Settings`: `make settings-table` writes it into the page."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dotenv import dotenv_values
from pydantic import SecretStr

from app.settings import Settings

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "app" / "manual" / "settings.md"
HEAD: Final = "| setting | default (dev / demo / test) | unit | meaning |\n|---|---|---|---|\n"


def default(name: str) -> str:
    """Return the default of a setting; where the files in env/ give it other values, one for each environment."""
    value = Settings.model_fields[name].default
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(plain, bool):
        plain = str(plain).lower()
    shown = f"{plain:g}" if isinstance(plain, float) else "" if plain is None else str(plain)
    common = dotenv_values(ROOT / "env" / ".env").get(name.upper(), shown)
    each = [
        dotenv_values(ROOT / "env" / f".env.{environment}").get(name.upper(), common)
        for environment in ("dev", "demo", "test")
    ]
    quoted = [f"`{text}`" if text else "empty" for text in each]
    return quoted[0] if len(set(quoted)) == 1 else " / ".join(quoted)


def table() -> str:
    """Return the whole table: one row for each field, in the order of the class."""
    rows = []
    for name, field in Settings.model_fields.items():
        unit = next((unit for unit in ("seconds", "bytes") if name.endswith(f"_{unit}")), "")
        rows.append(f"| `{name.upper()}` | {default(name)} | {unit} | {field.description} |\n")
    return HEAD + "".join(rows)


def rewritten(page: str) -> str:
    """Return the page with its table made anew."""
    before, head, after = page.partition(HEAD.partition("\n")[0])
    return before + table() + after[after.index("\n\n") + 1 :] if head else page


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
