"""A ComfyUI-shaped server for machines without one: same routes, frames, order and timing, and faults on demand."""
