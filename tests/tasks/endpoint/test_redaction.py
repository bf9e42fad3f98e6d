"""No credential survives in what is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oyer.tasks.endpoint.redaction import MASK, redact


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Authorization: Bearer abc.def-123", "abc.def-123"),
        ('{"authorization": "Basic dXNlcjpwdw=="}', "dXNlcjpwdw"),
        ("sent with bearer eyJhbGciOi.x.y", "eyJhbGciOi"),
        ("POST /v1?api_key=hunter22&x=1", "hunter22"),
        ("POST /v1?key=hunter22", "hunter22"),
        ('{"api-key": "hunter22"}', "hunter22"),
        ("Your api key: ****jvtw is invalid", "jvtw"),
        ("Incorrect API key provided: sk-proj-ab**********cd.", "proj-ab"),
        ("https://user:hunter22@proxy:3128 refused", "hunter22"),
    ],
)
def test_what_looks_like_a_credential_is_masked(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert MASK in redact(text)


def test_ordinary_words_stay() -> None:
    text = "HTTP 400: max_tokens=4000 breaks basic arithmetic; key: see https://docs.example/errors"
    assert redact(text) == text


def test_a_secret_is_found_in_its_url_encoding() -> None:
    assert redact("GET /?x=a%2Fb%2Bc%3D failed", ["a/b+c="]) == f"GET /?x={MASK} failed"


@given(st.text(), st.text(), st.integers(1, 600))
def test_no_cut_leaves_the_beginning_of_a_secret(before: str, after: str, limit_chars: int) -> None:
    secret = "planted-key-0123456789"
    kept = redact(before + secret + after, [secret], limit_chars=limit_chars)
    assert secret[:8] not in kept
    assert len(kept) <= limit_chars
