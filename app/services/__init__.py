"""Use cases, each one call for a handler."""
