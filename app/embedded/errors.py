"""What goes wrong with embedded servers."""


class EmbeddedError(Exception):
    """An embedded server cannot be found, started, reached or stopped; the message says why and what to do."""
