"""What a file is, and whether it is all there, by its container's own structure: lengths, checksums, end marks.

Nothing is decoded, and nothing is claimed of what has no structure that is known here. What an encoder has written
wrong between right checksums is kept as it is: it is what ComfyUI has made.
"""
