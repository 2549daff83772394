"""The secret by which links to outputs are signed; it is made when it is first needed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make room for one secret."""
    op.create_table(
        "link_secrets",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_link_secrets")),
        sa.CheckConstraint("id = 1", name=op.f("ck_link_secrets_one")),
    )


def downgrade() -> None:
    """Forget it: links of before are wrong afterwards."""
    op.drop_table("link_secrets")
