"""Everything that speaks to ComfyUI, and what is known of its servers."""
