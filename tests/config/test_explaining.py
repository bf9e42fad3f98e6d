"""An error names the key path, the expected value and a similar name."""

from typing import Any

import pytest

from oyer.config.loading import validate
from oyer.protocol.errors import InvalidConfig

ENDPOINTS = {"deepseek": {"base_url": "http://h/v1"}}


def judge(**changes: Any) -> dict[str, Any]:
    """Configure one judge with changes."""
    item = {"name": "q", "endpoint": "deepseek", "model": "m", **changes}
    return {"endpoints": ENDPOINTS, "judges": [item]}


def endpoint(**changes: Any) -> dict[str, Any]:
    """Configure one endpoint with changes."""
    return {"endpoints": {"e": {"base_url": "http://h/v1", **changes}}}


WRONG = [
    # Unknown keys, at every depth.
    ({"jugdes": []}, "jugdes: unknown key; did you mean `judges`?"),
    (judge(agregate="mean"), "judges[0].agregate: unknown key; did you mean `aggregate`?"),
    (endpoint(timeout=3), "endpoints.e.timeout: unknown key; did you mean `timeout_s`?"),
    (endpoint(api_key="x"), "endpoints.e.api_key: unknown key; put the key into an environment"),
    ({"reward": {"gates": 1}}, "reward.gates: unknown key; did you mean `gate`?"),
    (
        {"length": {"method": "median_band", "wieght": 2}},
        "length[0].wieght: unknown key; did you mean `weight`? (parameters of median_band: ",
    ),
    # Values of an enumeration.
    ({"reuse": "stroe"}, "reuse: must be 'run', 'store' or 'off'; did you mean `store`?"),
    (
        judge(aggregate="medain"),
        "judges[0].aggregate: must be 'mean' or 'median'; did you mean `median` or `mean`?",
    ),
    # Names of endpoints, rubrics, methods, judges.
    (
        judge(endpoint="depseek"),
        "judges[0].endpoint: 'depseek' is not in `endpoints`; did you mean",
    ),
    (judge(endpoint="x"), "judges[0].endpoint: 'x' is not in `endpoints`; known: deepseek"),
    (judge(rubric="reasoning_em"), "did you mean `reasoning_en`"),
    ({"length": {"method": "median_bnad"}}, "length[0].method: 'median_bnad' is not a length"),
    (
        judge() | {"reward": {"zero_unless": "judge:Q > 1"}},
        "reward.zero_unless: no judge is called 'Q'; did you mean `q`?",
    ),
    # Types, in terms of the configuration.
    ({"judges": "x"}, "judges: must be a list"),
    ({"budget": 3}, "budget: must be a section of keys"),
    ({"endpoints": []}, "endpoints: must be a mapping"),
    ({"endpoints": {"e": {"base_url": "h/v1"}}}, "endpoints.e.base_url: must begin with http://"),
    (judge(name="a b"), "judges[0].name: may hold only letters, digits"),
    (judge(samples="two"), "judges[0].samples: must be a whole number"),
    (
        judge(rubric="---\nlevls: [a]\n---\n{response}"),
        "judges[0].rubric: the front matter cannot be used: levls: unknown key; did you mean `levels`?",
    ),
    # Addresses.
    (endpoint(base_url="http://h/v1/chat/completions"), "base_url: ends in `/chat/completions`"),
    (endpoint(base_url="http://h/v1/chat/completions/"), "base_url: ends in `/chat/completions`"),
    (
        endpoint(base_url="http://h/v1/chat/completions?api-version=1"),
        "base_url: ends in `/chat/completions`",
    ),
    (endpoint(base_url="http://h/v1/completions"), "base_url: ends in `/completions`"),
    (
        {"endpoints": {"e": {"base_urls": [{"url": "http://h/v1/responses"}]}}},
        "endpoints.e.base_urls[0].url: ends in `/responses`",
    ),
    ({"broker": {"url": "sentinel://a:1/0"}}, "broker.url: names no primary; write redis+sentinel"),
    ({"broker": {"url": "redis+sentinel://a:1"}}, "broker.url: must name the primary, as the"),
    ({"broker": {"url": "redis+sentinel://a:1/m/x"}}, "broker.url: must name the primary, as the"),
    ({"broker": {"url": "redis+sentinel://a,/m/0"}}, "broker.url: must name the host and port of"),
    ({"broker": {"url": "redis+sentinel://a/m?tls=1"}}, "broker.url: option tls is unknown"),
    (
        {"broker": {"url": "rediss+sentinel://a/m"}},
        "broker.url: TLS is not supported with Sentinel",
    ),
    ({"broker": {"url": "unix://"}}, "broker.url: must name a socket by its absolute path"),
    (
        {"broker": {"url": "unix://run/redis.sock"}},
        "broker.url: must name a socket by its absolute",
    ),
    ({"broker": {"url": "localhost:6379"}}, "broker.url: must be a Redis URL, as redis://host"),
    ({"store": {"url": "sqlite://oyer.db"}}, "store.url: needs three slashes"),
    ({"store": {"url": "mysql://h/d"}}, "store.url: must be `sqlite:///file.db` or `postgresql"),
]


@pytest.mark.parametrize(("raw", "expected"), WRONG, ids=[expected[:60] for _, expected in WRONG])
def test_an_error_says_what_to_write(raw: dict[str, Any], expected: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        validate(raw)
    message = str(raised.value)
    assert expected in message
    for leak in ("Input should", "String should", "pydantic", "instance of", "rubric: rubric"):
        assert leak not in message


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("valkey://:pw@h:6379/0", "redis://:pw@h:6379/0"),
        ("valkeys://h:1?ssl_cert_reqs=required", "rediss://h:1?ssl_cert_reqs=required"),
        ("redis://h:6379/0", "redis://h:6379/0"),
    ],
)
def test_valkey_urls_become_redis_urls(written: str, taken: str) -> None:
    assert validate({"broker": {"url": written}}).broker.url == taken


def test_the_path_of_an_endpoint_may_be_any_other(subtests: pytest.Subtests) -> None:
    for url in ("http://h", "http://h/v1/", "http://h/openai/deployments/completions-4o/x"):
        with subtests.test(url):
            assert validate(endpoint(base_url=url)).endpoints["e"].base_url == url
