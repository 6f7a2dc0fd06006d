from __future__ import annotations

from twisted_ws.telemetry.counts import MOST_ROWS, OTHER, Buckets, BucketTable, Counts, Table


def test_bucketsByTheirUpperEnds():
    """A value is counted up to the bound that it is equal to, and what is above all bounds in a bucket of its own."""
    buckets = Buckets((1, 10))
    for value in (0, 1, 1.5, 10, 11):
        buckets.add(value)
    assert (buckets.counts, buckets.sum, buckets.total) == ([2, 2, 1], 23.5, 5)


def test_aTableIsBounded():
    """However many labels come, a table has so many rows and one for all others, and nothing is lost from the sum."""
    table = Table(2)
    for number in range(MOST_ROWS + 50):
        table.add("a", str(number))
    table.increase(3, "a", "0")
    assert len(table.rows) == MOST_ROWS + 1
    assert (table.rows["a", "0"], table.rows[OTHER, OTHER]) == (4, 50)
    assert sum(table.rows.values()) == MOST_ROWS + 53


def test_aTableOfBucketsIsBounded():
    """The same holds for histograms: those that come too late share one."""
    table = BucketTable(1, (1,))
    for number in range(MOST_ROWS + 50):
        table.of(str(number)).add(0.5)
    assert len(table.rows) == MOST_ROWS + 1
    assert table.of("7") is table.rows["7",]
    assert (table.rows["7",].counts, table.rows[OTHER,].counts) == ([1, 0], [50, 0])


def test_recipients():
    """Publications that nobody has heard are in the first bucket, though only the others are counted by their recipients."""
    counts = Counts()
    for _ in range(3):
        counts.publications.of("api", "").add(0.1)
    counts.heard.add(3)
    assert (counts.recipients.counts[:4], counts.recipients.total, counts.recipients.sum) == ([2, 0, 1, 0], 3, 3)
