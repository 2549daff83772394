"""Taking turns from Redis: arq's worker on our keys, and what arq runs."""
