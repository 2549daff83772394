"""REST and WebSocket handlers."""
