"""How often waiting jobs were passed over, why each attempt was given to its backend, and how long it loaded models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it. Of attempts that are there already it stays unknown; no row is rewritten."""
    op.add_column("generation_jobs", sa.Column("overtaken", sa.SmallInteger(), server_default="0", nullable=False))
    op.add_column("generation_jobs", sa.Column("overtaken_s", sa.REAL(), server_default="0", nullable=False))
    op.add_column("job_attempts", sa.Column("choice", JSONB(), nullable=True))
    op.add_column("job_attempts", sa.Column("load_s", sa.REAL(), nullable=True))


def downgrade() -> None:
    """Remove it."""
    op.drop_column("job_attempts", "load_s")
    op.drop_column("job_attempts", "choice")
    op.drop_column("generation_jobs", "overtaken_s")
    op.drop_column("generation_jobs", "overtaken")
