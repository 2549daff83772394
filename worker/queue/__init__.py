"""Taking turns from Redis with arq: the worker class, the turn function and the periodic tasks."""
