"""Keys for REST and sockets too: owners, limits and expiry; and from where what was done by hand was asked for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Let keys be of users; those that there are send jobs under their own names."""
    op.add_column("api_keys", sa.Column("owner", sa.String(255), nullable=True))
    op.execute("UPDATE api_keys SET owner = name")
    op.alter_column("api_keys", "owner", nullable=False)
    op.add_column("api_keys", sa.Column("limits", JSONB(), nullable=False, server_default=sa.text("'{}'")))
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("last_used_from", sa.String(64), nullable=True))
    op.drop_constraint(op.f("ck_api_keys_role"), "api_keys")
    op.create_check_constraint(op.f("ck_api_keys_role"), "api_keys", "role IN ('user', 'viewer', 'operator', 'admin')")
    op.add_column("audit_log", sa.Column("address", sa.String(64), nullable=True))
    op.add_column("audit_log", sa.Column("request_id", sa.String(64), nullable=True))
    op.create_index("ix_audit_log_at", "audit_log", ["at"])


def downgrade() -> None:
    """Forget them, and the keys of users, which an older version would take for keys of the page."""
    op.drop_index("ix_audit_log_at", "audit_log")
    op.drop_column("audit_log", "request_id")
    op.drop_column("audit_log", "address")
    op.execute("DELETE FROM api_keys WHERE role = 'user'")
    op.drop_constraint(op.f("ck_api_keys_role"), "api_keys")
    op.create_check_constraint(op.f("ck_api_keys_role"), "api_keys", "role IN ('viewer', 'operator', 'admin')")
    for column in ("last_used_from", "expires_at", "limits", "owner"):
        op.drop_column("api_keys", column)
