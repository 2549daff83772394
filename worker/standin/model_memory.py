"""Which models are loaded, so that loading takes time once."""


class ModelMemory:
    """One checkpoint and its LoRAs, as on a card that holds no second one."""

    def __init__(self) -> None:
        self.checkpoint: str | None = None
        self.loads = 0
        """How often a checkpoint was loaded."""
        self._loras: set[str] = set()

    def load_checkpoint(self, name: str) -> bool:
        """Load a checkpoint in place of the loaded one; tell whether that takes time."""
        if self.checkpoint == name:
            return False
        self.unload()
        self.checkpoint = name
        self.loads += 1
        return True

    def load_lora(self, name: str) -> bool:
        """Load a LoRA; tell whether that takes time."""
        if name in self._loras:
            return False
        self._loras.add(name)
        return True

    def unload(self) -> None:
        """Forget everything."""
        self.checkpoint = None
        self._loras.clear()
