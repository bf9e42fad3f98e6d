"""Equal requests are answered once, and complete answers are kept for a time."""

import asyncio

import pytest

from oyer.server.idempotency import KEEP_S, MAX_KEPT_ROLLOUTS, Replies, Reply


class Maker:
    """Makes numbered replies, and counts them."""

    def __init__(self, *, complete: bool = True, rollouts: int = 1, keep_s: float = KEEP_S) -> None:
        self.made = 0
        self._keep_s = keep_s
        self._complete = complete
        self._rollouts = rollouts

    async def __call__(self) -> Reply:
        self.made += 1
        number = self.made
        await asyncio.sleep(0)
        return Reply(
            content=number, complete=self._complete, rollouts=self._rollouts, keep_s=self._keep_s
        )


def test_equal_requests_share_an_answer() -> None:
    maker = Maker()

    async def main() -> list[int]:
        replies = Replies()
        joined = await asyncio.gather(*(replies.get("a", maker) for _ in range(5)))
        later = await replies.get("a", maker)
        return [reply.content for reply in (*joined, later)]

    assert asyncio.run(main()) == [1] * 6


def test_an_incomplete_answer_is_made_again() -> None:
    maker = Maker(complete=False)

    async def main() -> None:
        replies = Replies()
        await replies.get("a", maker)
        await replies.get("a", maker)

    asyncio.run(main())
    assert maker.made == 2


def test_answers_are_dropped_after_their_time_and_beyond_their_number() -> None:
    maker, now = Maker(), [0.0]

    async def main() -> None:
        replies = Replies(clock=lambda: now[0])
        await replies.get("a", maker)
        now[0] = KEEP_S + 1
        await replies.get("a", maker)
        assert maker.made == 2
        await replies.get("small", maker)
        await replies.get("large", Maker(rollouts=MAX_KEPT_ROLLOUTS - 1))
        await replies.get("small", maker)
        assert maker.made == 3
        await replies.get("a", maker)

    asyncio.run(main())
    assert maker.made == 4


def test_an_answer_with_a_shorter_time_is_made_again_behind_one_with_a_longer_time() -> None:
    maker, other, now = Maker(keep_s=5), Maker(), [0.0]

    async def main() -> list[int]:
        replies = Replies(clock=lambda: now[0])
        made = [await replies.get(key, one) for key, one in (("long", other), ("short", maker))]
        for now[0] in (4.0, 6.0, 10.0, 12.0):
            made.append(await replies.get("short", maker))
        made.append(await replies.get("long", other))
        return [reply.content for reply in made]

    assert asyncio.run(main()) == [1, 1, 1, 2, 2, 3, 1]


def test_a_disconnected_client_does_not_cancel_the_work_of_others() -> None:
    async def main() -> int:
        replies, go = Replies(), asyncio.Event()

        async def make() -> Reply:
            await go.wait()
            return Reply(content=1)

        first = asyncio.create_task(replies.get("a", make))
        second = asyncio.create_task(replies.get("a", make))
        await asyncio.sleep(0)
        first.cancel()
        go.set()
        return int((await second).content)

    assert asyncio.run(main()) == 1


def test_a_failure_is_raised_for_all_and_not_kept() -> None:
    async def fail() -> Reply:
        raise ValueError("no")

    async def main() -> tuple[BaseException | Reply, ...]:
        replies = Replies()
        both = await asyncio.gather(
            replies.get("a", fail), replies.get("a", fail), return_exceptions=True
        )
        assert (await replies.get("a", Maker())).content == 1
        return both

    assert [type(error) for error in asyncio.run(main())] == [ValueError, ValueError]
    with pytest.raises(ValueError, match="no"):
        asyncio.run(Replies().get("a", fail))
