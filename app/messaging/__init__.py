"""Redis: names, queue, open sockets."""
