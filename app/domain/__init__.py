"""What a job is and may become, in standard library only."""
