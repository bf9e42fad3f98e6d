"""Every form in which an endpoint states a wait."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.tasks.endpoint.retry import retry_after_s

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "expected_s"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"Retry-After": "Sun, 01 Mar 2026 12:00:20 GMT"}, 20.0),
        ({"Retry-After": "Sun, 01 Mar 2026 11:59:00 GMT"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "2500", "Retry-After": "2"}, 2.5),
        ({"x-ratelimit-reset-requests": "1m30s"}, 90.0),
        ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "6s", "x-ratelimit-reset-requests": "1s"}, 6.0),
        ({"x-ratelimit-reset-requests": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset": str(int(NOW.timestamp()) + 12)}, 12.0),
        ({"x-ratelimit-reset": str((int(NOW.timestamp()) + 12) * 1000)}, 12.0),
        ({"ratelimit-reset": "30"}, 30.0),
        ({"anthropic-ratelimit-tokens-reset": "2026-03-01T12:00:45Z"}, 45.0),
        ({"anthropic-ratelimit-tokens-reset": "2026-03-01T12:00:45"}, 45.0),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "1e999"}, None),
        ({"x-ratelimit-reset-tokens": "6 parsecs"}, None),
        ({"x-ratelimit-limit-requests": "500"}, None),
    ],
)
def test_each_form_is_read(headers: dict[str, str], expected_s: float | None) -> None:
    assert retry_after_s(headers, NOW) == (
        None if expected_s is None else pytest.approx(expected_s, abs=1e-6)
    )


def test_a_requested_wait_takes_precedence_over_the_reset_of_a_limit() -> None:
    headers = {"Retry-After": "2", "x-ratelimit-reset-requests": "8m38s"}
    assert retry_after_s(headers, NOW) == 2.0


def test_a_garbled_retry_after_leaves_the_reset_headers() -> None:
    assert retry_after_s({"Retry-After": "?", "x-ratelimit-reset-tokens": "4s"}, NOW) == 4.0


def test_only_the_spent_allowance_is_waited_for() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "3s",
        "x-ratelimit-remaining-tokens": "149000",
        "x-ratelimit-reset-tokens": "50s",
    }
    assert retry_after_s(headers, NOW) == 3.0


@pytest.mark.parametrize(
    ("error", "expected_s"),
    [
        # Gemini
        ({"details": [{"@type": "…/google.rpc.RetryInfo", "retryDelay": "6.02s"}]}, 6.02),
        ([{"error": {"details": [{"retryDelay": {"seconds": 6, "nanos": 20_000_000}}]}}], 6.02),
        ({"message": "Quota exceeded for metric: x. Please retry in 38.9s."}, 38.9),
        # OpenAI, Groq
        ("Limit 3 / min. Please try again in 20s. Contact us", 20.0),
        ("Please try again in 350ms. Visit", 0.35),
        ({"message": "Please try again in 1m2.5s. Visit"}, 62.5),
        ("try again in 1h2m3s", 3723.0),
        # Azure, LiteLLM, others
        ("Please retry after 7 seconds.", 7.0),
        ("Please retry your requests after 1 minute and 5 seconds.", 65.0),
        ("Please retry after 1 day, 3 hours", 97_200.0),
        ("No deployments available, Try again in 60 seconds. Passed model=m", 60.0),
        ("Too many requests, please wait 2 mins before trying again", 120.0),
        ("Rate limit resets in 250 milliseconds", 0.25),
        ("The limit resets at 2026-03-01T12:00:45Z. Upgrade", 45.0),
        ("Try again at 2026-03-01T12:00:45.", 45.0),
        ("请求过于频繁，请在 6 秒后重试", 6.0),
        ("请2分钟后再试", 120.0),
        ("请等待5秒", 5.0),
        ({"retry_after": 1.5}, 1.5),
        ({"error": {"retryAfterMs": "1500"}}, 1.5),
        ({"metadata": {"retry_after_seconds": 9}}, 9.0),
        ({"estimated_time": 20.0}, 20.0),
        # OpenRouter
        ({"metadata": {"headers": {"Retry-After": 4}}}, 4.0),
        (
            {
                "metadata": {
                    "headers": {
                        "X-RateLimit-Remaining": "0",
                        "X-RateLimit-Reset": (int(NOW.timestamp()) + 12) * 1000,
                    }
                }
            },
            12.0,
        ),
        ({"metadata": {"raw": '{"error": {"details": [{"retryDelay": "3s"}]}}'}}, 3.0),
        # The longest of several
        ({"message": "Please retry in 5s.", "details": [{"retryDelay": "6s"}]}, 6.0),
        ({"retry_after": -3}, 0.0),
        ("Please try again later.", None),
        ("The upstream timed out, waiting for 60 seconds", None),
        ("Failed after retrying for 60 seconds", None),
        ("Retry 3 times at most", None),
        ("响应超时60秒后断开", None),
        ({"retry_after": None, "retryDelay": True, "retry_in": "soon"}, None),
        ({"retry_after": float("nan"), "retryDelay": {"seconds": "x"}}, None),
        (None, None),
    ],
)
def test_a_wait_in_the_error_is_read(error: Any, expected_s: float | None) -> None:
    assert retry_after_s({}, NOW, error=error) == (
        None if expected_s is None else pytest.approx(expected_s, abs=1e-6)
    )


def test_the_longer_of_header_and_error_counts_and_both_outrank_a_reset() -> None:
    headers = {"Retry-After": "2", "x-ratelimit-reset-requests": "8m38s"}
    assert retry_after_s(headers, NOW, error="try again in 6s") == 6.0
    assert retry_after_s(headers, NOW, error="try again in 1s") == 2.0
    assert retry_after_s({"x-ratelimit-reset": "30"}, NOW, error="try again in 6s") == 6.0


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["retryDelay", "seconds", "headers", "retry_after"]), inner
        )
    ),
)


@given(JSON)
def test_no_error_raises_or_gives_a_negative_wait(error: Any) -> None:
    wait_s = retry_after_s({}, NOW, error=error)
    assert wait_s is None or wait_s >= 0


@given(
    st.dictionaries(
        st.sampled_from(["Retry-After", "retry-after-ms", "x-ratelimit-reset"]), st.text()
    )
)
def test_no_header_raises_or_gives_a_negative_wait(headers: dict[str, str]) -> None:
    wait_s = retry_after_s(headers, NOW)
    assert wait_s is None or wait_s >= 0


@given(st.datetimes(datetime(2026, 3, 1, 12), datetime(2030, 1, 1)))
def test_an_iso_time_is_the_distance_from_now(time: datetime) -> None:
    headers = {"anthropic-ratelimit-requests-reset": time.replace(tzinfo=UTC).isoformat()}
    distance: timedelta = time.replace(tzinfo=UTC) - NOW
    assert retry_after_s(headers, NOW) == pytest.approx(distance.total_seconds())
