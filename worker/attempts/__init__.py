"""One attempt at a job: submitted, followed, ended, and tried again or not."""
