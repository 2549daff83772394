"""Which models a job needs in memory, and what it will probably cost: known when it is accepted."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it. Of jobs that are there already it stays unknown, also of those that wait; no row is rewritten."""
    op.add_column(
        "generation_jobs", sa.Column("models", ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False)
    )
    op.add_column("generation_jobs", sa.Column("model_key", sa.String(32), nullable=True))
    op.add_column("generation_jobs", sa.Column("cost_s", sa.REAL(), server_default=sa.text("10"), nullable=False))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("generation_jobs", "cost_s")
    op.drop_column("generation_jobs", "model_key")
    op.drop_column("generation_jobs", "models")
