"""What a stand-in can be told before it starts."""

from dataclasses import dataclass
from pathlib import Path

from worker.standin.faults import Fault


@dataclass(frozen=True, slots=True, kw_only=True)
class StandinOptions:
    """Options of one stand-in. Tests set the durations to 0."""

    version: str = "0.33.0"
    """What `/system_stats` says, and whose behaviour is shown: see `versions.py`."""
    directory: Path | None = None
    """Holds `output`, `input` and `temp`; None means a temporary directory that goes with the server."""

    checkpoints: tuple[str, ...] = (
        "sd_xl_base_1.0.safetensors",
        "dreamshaper_8.safetensors",
        "flux1-schnell.safetensors",
        "juggernautXL_v9.safetensors",
        "v1-5-pruned-emaonly.safetensors",
    )
    loras: tuple[str, ...] = (
        "add_detail.safetensors",
        "lcm-lora-sdxl.safetensors",
        "pixel-art-xl.safetensors",
        "watercolor_style.safetensors",
    )
    vaes: tuple[str, ...] = ("sdxl_vae.safetensors", "vae-ft-mse-840000-ema-pruned.safetensors")
    upscale_models: tuple[str, ...] = ("RealESRGAN_x4plus.pth", "4x-UltraSharp.pth")
    embeddings: tuple[str, ...] = ("easynegative",)

    model_load_seconds: float = 0.6
    """The first use of a checkpoint, and each change of it."""
    lora_load_seconds: float = 0.05
    step_seconds: float = 0.09
    """A sampler step for a million pixels; proportional to width × height × batch_size."""
    speed: float = 1.0
    """Divides every duration of the execution; 0 or less is refused."""
    latency_seconds: float = 0.0
    """Added to every HTTP answer."""
    history_delay_seconds: float = 0.001
    """Between the frame that announces the end and the history entry."""

    previews: bool = True
    """Whether samplers send previews; ComfyUI does so only when started with a preview method."""
    metadata: bool = True
    """Whether PNG files carry the graph; off with `--disable-metadata`."""
    cache: str = "classic"
    """`classic` keeps the results of the preceding prompt, `none` keeps nothing, a number keeps that many results."""
    assets: bool = False
    """Whether reported files have ids, as with `--enable-assets` from 0.33 on."""
    max_history: int = 10_001

    faults: tuple[Fault, ...] = ()
    """Armed from the start."""

    def __post_init__(self) -> None:
        if self.speed <= 0:
            raise ValueError("speed must be greater than 0")
        if self.cache not in ("classic", "none") and not self.cache.isdecimal():
            raise ValueError("cache must be classic, none or a number")
        if not self.checkpoints:
            raise ValueError("at least one checkpoint is needed")
