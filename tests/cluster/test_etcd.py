"""What is said to etcd, and how its answers read."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from placeos.cluster.etcd_messages import (
    AliveAnswer,
    Compacted,
    EtcdError,
    TxnAnswer,
    changes,
    decode,
    range_of,
)

KEYS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)


@given(KEYS, KEYS)
def test_a_prefix_covers_what_starts_with_it_and_nothing_else(prefix: str, key: str) -> None:
    asked = range_of(prefix)
    start, end = (base64.b64decode(str(asked[name])) for name in ("key", "range_end"))
    for candidate in (key, prefix + key, prefix):
        inside = start <= candidate.encode() < end
        assert inside == candidate.startswith(prefix)


def test_fields_that_are_absent_are_zero() -> None:
    assert int(decode(b'{"result":{"ID":"7"}}', AliveAnswer).result.ttl) == 0
    assert not decode(b"{}", TxnAnswer).outcome(repeated=False).succeeded


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"result":{"canceled":true,"compact_revision":"5"}}', Compacted),
        (b'{"result":{"canceled":true,"cancel_reason":"gone"}}', EtcdError),
        (b'{"error":{"message":"etcdserver: no leader"}}', EtcdError),
        (b"[" * 100_000, EtcdError),
        (b"<html>", EtcdError),
    ],
)
def test_a_watch_that_ends_says_why(line: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        changes(line)
