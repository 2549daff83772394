"""Pictures worth looking at, drawn from the words, the seed and the models of a prompt."""

from worker.standin.drawing.picture import draw, emerging

__all__ = ["draw", "emerging"]
