"""Recognizes formats and detects truncated files by the container's structure: lengths, checksums, end marks.

Nothing is decoded, and unknown formats are not checked. Wrong data with correct checksums is accepted, because it is
what ComfyUI has written.
"""
