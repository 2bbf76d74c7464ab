"""What PostgreSQL keeps of the cluster: its epoch, and the newest view that any core took."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """A table of one row, made by the first core."""
    op.execute("""
CREATE TABLE installation (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch text NOT NULL,
    progress bigint NOT NULL DEFAULT 0,
    view jsonb
)""")
