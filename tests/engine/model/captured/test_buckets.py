"""A bucket holds its step, and is the smallest one that does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.model.captured.buckets import (
    DRAFT_DEPTHS,
    READS_MIN,
    ROWS,
    SEQUENCES,
    bucket_of,
    usual_buckets,
)
from engine.step import chain, chain_with_groups, joined
from tests.engine.steps import trees


@given(st.data(), st.integers(1, 9))
def test_a_bucket_holds_its_step(data: st.DataObject, sequences: int) -> None:
    lengths = dict.fromkeys(range(sequences), 3)
    step = data.draw(trees(lengths, rows_max=140, drafters=(False, True)))
    bucket = bucket_of(step, reads=True)
    used = len(set(step.sequence))
    if bucket is None:
        assert step.rows > ROWS[-1] or used > SEQUENCES[-1]
        return
    assert step.rows <= bucket.rows
    assert used <= bucket.sequences
    assert len(step.read) <= bucket.reads <= bucket.rows
    assert bucket.is_adapted == any(step.drafter)
    assert not [rows for rows in ROWS if step.rows <= rows < bucket.rows]
    unread = bucket_of(step, reads=False)
    assert unread is not None
    assert (unread.rows, unread.reads, unread.draft_depth) == (bucket.rows, 0, 0)


def test_rows_that_are_not_read_need_no_output_head() -> None:
    bucket = bucket_of(chain((1,) * 20, 0), reads=True)
    assert bucket is not None
    assert (bucket.rows, bucket.reads) == (32, 0)
    bucket = bucket_of(chain((1,) * 20, 0, read=(19,)), reads=True)
    assert bucket is not None
    assert bucket.reads == READS_MIN


def test_drafts_that_follow_from_each_other_are_counted() -> None:
    for masks, depth in [(1, 8), (8, 8), (9, 32), (32, 32), (33, None)]:
        hung = chain_with_groups((5, 6), 0, [(1, (97,) * masks)], shifts=True, drafter=True)
        other = chain_with_groups((5,), 0, [(0, (97,) * 3)], shifts=True, drafter=True, sequence=1)
        bucket = bucket_of(joined([other, hung]), reads=True)
        assert (bucket and bucket.draft_depth) == depth
    assert bucket_of(chain((1,) * (ROWS[-1] + 1), 0), reads=True) is None


def test_the_usual_buckets_are_those_of_steps_with_one_sequence() -> None:
    usual = list(usual_buckets(has_adapter=True, has_draft_rows=True))
    assert len(set(usual)) == len(usual)
    for rows in (1, 16, 17, 100):
        for read in ((), (0,), tuple(range(rows))):
            assert bucket_of(chain((1,) * rows, 0, read=read), reads=True) in usual
    hung = chain_with_groups((5,), 0, [(0, (97,) * DRAFT_DEPTHS[0])], shifts=True, drafter=True)
    assert bucket_of(hung, reads=True) in usual
    plain = list(usual_buckets(has_adapter=False, has_draft_rows=False))
    assert not [bucket for bucket in plain if bucket.is_adapted or bucket.draft_depth]
