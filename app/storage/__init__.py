"""PostgreSQL and files."""
