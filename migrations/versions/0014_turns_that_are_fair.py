"""Whose turn it is: a job's place in the queue is a tag of virtual time, so that nobody waits for another's flood."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tags, the clocks of the levels of priority, and the weights of tenants.

    What waits has the tag 0, and goes before what is sent from now on, in the order in which it came. What is not to
    begin yet gets its tag when it is due.
    """
    op.add_column("generation_jobs", sa.Column("fair_tag", sa.BigInteger(), server_default=sa.text("0")))
    op.execute("UPDATE generation_jobs SET fair_tag = NULL WHERE status = 'pending' AND not_before > now()")
    _remake(("priority DESC", "fair_tag", "id"), "status = 'pending' AND fair_tag IS NOT NULL")
    op.create_index(
        "ix_generation_jobs_deferred",
        "generation_jobs",
        ["available_at", "id"],
        postgresql_where=sa.text("status = 'pending' AND fair_tag IS NULL"),
    )
    op.create_index(
        "ix_generation_jobs_deferred_of_user",
        "generation_jobs",
        ["user_id"],
        postgresql_where=sa.text("status = 'pending' AND fair_tag IS NULL"),
    )
    op.create_table(
        "tenants",
        sa.Column("tenant", sa.String(255), nullable=False),
        sa.Column("weight", sa.Double(), server_default=sa.text("1"), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_tenants")),
        sa.CheckConstraint("weight BETWEEN 0.01 AND 100", name=op.f("ck_tenants_weight")),
    )
    op.create_table(
        "queue_clocks",
        sa.Column("priority", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("tag", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("priority", name=op.f("pk_queue_clocks")),
    )


def downgrade() -> None:
    """Go back to the order of time."""
    op.drop_table("queue_clocks")
    op.drop_table("tenants")
    op.drop_index("ix_generation_jobs_deferred_of_user", "generation_jobs")
    op.drop_index("ix_generation_jobs_deferred", "generation_jobs")
    _remake(("priority DESC", "available_at", "id"), "status = 'pending'")
    op.drop_column("generation_jobs", "fair_tag")


def _remake(order: tuple[str, ...], which: str) -> None:
    """Make both indexes of waiting jobs, of those of which `which` is true, anew: the whole queue's, and each user's."""
    columns = [sa.text(column) for column in order]
    op.drop_index("ix_generation_jobs_waiting", "generation_jobs")
    op.create_index("ix_generation_jobs_waiting", "generation_jobs", columns, postgresql_where=sa.text(which))
    op.drop_index("ix_generation_jobs_waiting_of_user", "generation_jobs")
    op.create_index(
        "ix_generation_jobs_waiting_of_user",
        "generation_jobs",
        [sa.text("user_id"), *columns],
        postgresql_where=sa.text(which),
    )
