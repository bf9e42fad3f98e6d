"""One worker's part of an endpoint's request and token windows; pure, times are arguments.

- Redis holds, per slice of time (a bucket), the sum over all workers. A worker counts its own part:
  spent, or granted in a block and not spent yet.
- Changes are sent with the next exchange. If it is unknown whether an exchange was carried out,
  returns are dropped and charges repeated, so that Redis never counts too little.
"""

from collections import Counter, deque
from dataclasses import dataclass

Change = tuple[str, int, int]
"""Kind (`q` requests, `t` tokens), bucket, and the amount to add."""


@dataclass(slots=True)
class _Block:
    """Requests and tokens granted together, to be used before `use_by_s`."""

    bucket: int
    use_by_s: float
    requests: int
    tokens: int


class TokenWindows:
    """Grants, spending and settlement of one worker at one endpoint."""

    def __init__(self) -> None:
        self._blocks: deque[_Block] = deque()
        self._charged: Counter[tuple[str, int]] = Counter()
        self._reported: Counter[tuple[str, int]] = Counter()

    def grant(self, bucket: int, use_by_s: float, requests: int, tokens: int) -> None:
        """Add a block that Redis has charged to `bucket`."""
        self._blocks.append(_Block(bucket, use_by_s, requests, tokens))
        for kind, n in (("q", requests), ("t", tokens)):
            self._charged[kind, bucket] += n
            self._reported[kind, bucket] += n

    def balance(self, now_s: float) -> tuple[int, int]:
        """Return the requests and tokens that may be spent now; expired blocks are returned."""
        while self._blocks and self._blocks[0].use_by_s <= now_s:
            block = self._blocks.popleft()
            self.charge(block.bucket, -block.requests, -block.tokens)
        return sum(b.requests for b in self._blocks), sum(b.tokens for b in self._blocks)

    def spend(self, now_s: float, requests: int, tokens: int) -> int | None:
        """Take a call's cost from the oldest blocks.

        Returns:
            The newest bucket charged, to settle with (0 if the call costs nothing), or None if the
            balance is too low.
        """
        has_requests, has_tokens = self.balance(now_s)
        if has_requests < requests or has_tokens < tokens:
            return None
        bucket = taken = 0
        for block in self._blocks:
            if not requests and not tokens:
                break
            # Move the call's tokens to its newest bucket, so that unused ones return to one bucket.
            self.charge(bucket, 0, -taken)
            q, t = min(requests, block.requests), min(tokens, block.tokens)
            self.charge(block.bucket, 0, taken)
            block.requests, block.tokens = block.requests - q, block.tokens - t
            requests, tokens, taken = requests - q, tokens - t, taken + t
            bucket = block.bucket
        while self._blocks and not (self._blocks[0].requests or self._blocks[0].tokens):
            self._blocks.popleft()
        return bucket

    def charge(self, bucket: int, requests: int, tokens: int) -> None:
        """Charge a bucket, or return to it; nothing is returned to a bucket that has left the window."""
        for kind, n in (("q", requests), ("t", tokens)):
            if n > 0 or (kind, bucket) in self._charged:
                self._charged[kind, bucket] += n

    def total(self, oldest: int) -> tuple[int, int]:
        """Return the requests and tokens charged since bucket `oldest`; earlier ones are dropped."""
        for book in (self._charged, self._reported):
            for entry in [entry for entry in book if entry[1] < oldest]:
                del book[entry]
        totals = Counter[str]()
        for (kind, _), n in self._charged.items():
            totals[kind] += n
        return totals["q"], totals["t"]

    def changes(self) -> list[Change]:
        """Return the changes that have not been reported to Redis."""
        entries = self._charged.keys() | self._reported.keys()
        changes = ((k, b, self._charged[k, b] - self._reported[k, b]) for k, b in entries)
        return [change for change in changes if change[2]]

    def confirm(self, changes: list[Change]) -> None:
        """Record that Redis has carried out `changes`."""
        for kind, bucket, n in changes:
            self._reported[kind, bucket] += n

    def doubt(self, changes: list[Change]) -> None:
        """Record that Redis may or may not have carried out `changes`."""
        for kind, bucket, n in changes:
            if n < 0:
                self._charged[kind, bucket] -= n

    def restate(self) -> None:
        """Report everything again, because Redis has lost its state."""
        self._reported.clear()
