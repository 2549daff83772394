"""The server, and what the worker shares with it."""
