"""How many backends have stopped under a job: it is tried once more, alone, and then not again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the count; a default that is a constant rewrites no row."""
    op.add_column(
        "generation_jobs", sa.Column("suspicions", sa.SmallInteger(), nullable=False, server_default=sa.text("0"))
    )


def downgrade() -> None:
    """Forget it."""
    op.drop_column("generation_jobs", "suspicions")
