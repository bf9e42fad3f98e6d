"""Messages are recorded as JSON, and each of their images once."""

import json
from typing import Any

from sqlalchemy import Engine, select, text

from oyer.models import Text
from oyer.models.engine import reading
from oyer.models.requests import rollout_images, rollout_texts, texts_of
from oyer.models.rollout import REFERENCE, with_images, without_images
from oyer.models.writes import ensure_run_and_batch, record_chunk
from tests.support.record_rows import make_batch, make_judgement, make_rollout

IMAGE = "data:image/png;base64," + "QUJD" * 100


def messages_with(url: str, word: str) -> list[dict[str, Any]]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return [
        {"role": "user", "content": [part, part, {"type": "text", "text": word}], "z": 1, "a": 2}
    ]


def record_two(engine: Engine) -> str:
    """Record two rollouts with the same image in four places, and a judgement with its messages."""
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch(size=2))
        record_chunk(
            conn,
            key,
            rollouts=[
                make_rollout(
                    i,
                    prompt=messages_with(IMAGE, "prompt"),
                    response=messages_with(IMAGE, f"response {i}"),
                    tools=[{"name": "f"}],
                )
                for i in range(2)
            ],
            judgements=[
                make_judgement(
                    0, messages=json.dumps(messages_with(IMAGE, "m")), view_truncated=True
                )
            ],
        )
    return key.batch_id


def test_an_image_is_stored_once_and_the_messages_are_read_as_they_were(engine: Engine) -> None:
    batch_id = record_two(engine)
    with reading(engine) as conn:
        bodies = list(conn.scalars(select(Text.body)))
        assert [body for body in bodies if "QUJD" in body] == [IMAGE]
        assert (
            len(bodies) == len(set(bodies)) == 7
        )  # prompt, 2 responses, reference, tools, image, messages
        read = rollout_texts(conn, batch_id, 1)
        assert json.loads(str(read["prompt"])) == messages_with(IMAGE, "prompt")
        assert json.loads(str(read["response"])) == messages_with(IMAGE, "response 1")
        # The order of keys is part of what a judge is shown.
        assert str(read["prompt"]).index('"z"') < str(read["prompt"]).index('"a"')
        assert read["tools"] == '[{"name":"f"}]'
        assert list(rollout_images(conn, batch_id, 1).values()) == [IMAGE]


def test_the_view_shows_messages_tools_and_whether_the_view_was_cut(engine: Engine) -> None:
    record_two(engine)
    with reading(engine) as conn:
        found = conn.execute(
            text("SELECT response, tools, view_truncated, split FROM judge_history")
        ).one()
        (stored,) = conn.execute(text("SELECT messages_hash FROM judgements")).scalars()
        images = {REFERENCE: texts_of(conn, [stored])[stored]}
    assert json.loads(found.response)[0]["content"][2] == {"type": "text", "text": "response 0"}
    assert (json.loads(found.tools), bool(found.view_truncated)) == ([{"name": "f"}], True)
    assert found.split is None
    assert f'"{REFERENCE}' in images[REFERENCE]


def test_the_split_of_a_batch_is_in_the_view(engine: Engine) -> None:
    with engine.begin() as conn:
        key = ensure_run_and_batch(conn, make_batch(split="eval"))
        record_chunk(conn, key, rollouts=[make_rollout(0)], judgements=[make_judgement(0)])
    with reading(engine) as conn:
        assert conn.scalar(text("SELECT split FROM judge_history")) == "eval"


def test_only_data_urls_of_some_length_are_replaced() -> None:
    value = [{"a": IMAGE, "b": ["data:,short", f"see {IMAGE}", 3, None]}]
    images: dict[str, str] = {}
    replaced = without_images(value, images)
    (digest,) = images
    assert replaced == [
        {"a": f"{REFERENCE}{digest}", "b": ["data:,short", f"see {IMAGE}", 3, None]}
    ]
    assert with_images(json.dumps(replaced), images) == json.dumps(value)
    assert with_images(None, images) is None


def test_words_that_name_an_image_are_left_as_they_are() -> None:
    images: dict[str, str] = {}
    without_images([IMAGE], images)
    (digest,) = images
    body = json.dumps([f'the policy writes "{REFERENCE}{digest}" here'])
    assert with_images(body, images) == body
