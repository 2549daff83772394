"""The arq worker that runs jobs on ComfyUI."""
