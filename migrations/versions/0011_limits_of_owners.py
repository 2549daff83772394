"""Limits of owners: what waits and runs of each is found quickly, and how many jobs were accepted on a day is kept."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them, and the function that lets one claim at a time begin a job of an owner whose running jobs are limited.

    A statement sees what was committed when it began, and of two at once each would count the other's job out. In a
    function each statement sees what is committed by then, here after the wait for the other one.
    """
    op.create_index(
        "ix_generation_jobs_waiting_of_user",
        "generation_jobs",
        ["user_id", sa.text("priority DESC"), "available_at", "id"],
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index("ix_api_keys_owner", "api_keys", ["owner"])
    op.create_table(
        "owner_days",
        sa.Column("user_id", sa.String(255), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "day", name=op.f("pk_owner_days")),
    )
    op.execute("""
        CREATE FUNCTION owner_may_run(owner text, most bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            IF most IS NULL THEN
                RETURN true;
            END IF;
            PERFORM pg_advisory_xact_lock(hashtextextended(owner, 7265837417));
            RETURN (SELECT count(*) FROM generation_jobs WHERE status = 'running' AND user_id = owner) < most;
        END $$""")


def downgrade() -> None:
    """Remove them."""
    op.execute("DROP FUNCTION owner_may_run(text, bigint)")
    op.drop_table("owner_days")
    op.drop_index("ix_api_keys_owner", "api_keys")
    op.drop_index("ix_generation_jobs_waiting_of_user", "generation_jobs")
