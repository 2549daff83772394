"""What `python -m app` can do: each command takes the settings, and returns the exit code."""
