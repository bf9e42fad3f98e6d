"""Partitions by month of the tables that grow, on PostgreSQL.

- A table of `BatchPart` has the submission time first in its primary key, and no other unique
  constraint. So it can be partitioned without a change to a query or to an `ON CONFLICT`.
- The table that was there before becomes the first partition, without copying a row. Then there is one
  partition per month, and a default one for times without a partition, so that no insert fails.
- A month is dropped by detaching its partitions; the texts that only they hold are deleted in short
  transactions, as `pruning` does.
"""
