"""Running one attempt at a job: submission, following, ending, and the decision to retry."""
