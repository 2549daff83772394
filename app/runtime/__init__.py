"""What is about the process, not about jobs: memory, tasks, threads, JSON."""
