"""Images of a rollout in a judge's request: sent, replaced by a placeholder, or rejected."""

from typing import Any

import pytest

from oyer.config.reward import JudgeConfig, RewardRules
from oyer.protocol.rollout import Rollout
from oyer.protocol.status import Status
from oyer.tasks.judging import views
from oyer.tasks.judging.requests import JudgeRequest, requests_of

PNG = "data:image/png;base64," + "QUJD" * 100
IMAGES = {
    "OpenAI": {"type": "image_url", "image_url": {"url": PNG}},
    "flat": {"type": "input_image", "image_url": PNG},
    "block": {"type": "image", "image": PNG},
    "Anthropic": {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": PNG.partition(",")[2]},
    },
}


def job_of(rollout: Rollout, **keys: Any) -> JudgeRequest:
    judge = JudgeConfig.model_validate({"name": "q", "endpoint": "e", "model": "m", **keys})
    return next(requests_of({0: rollout}, [judge], RewardRules(), {}))


@pytest.mark.parametrize("part", IMAGES.values(), ids=IMAGES)
def test_images_are_sent_behind_the_text_under_their_numbers(part: dict[str, Any]) -> None:
    rollout = Rollout(
        prompt=[{"role": "user", "content": [{"type": "text", "text": "What is it?"}, part]}],
        response=[
            {"role": "assistant", "content": "A cat."},
            {
                "role": "tool",
                "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}],
            },
        ],
    )
    request = job_of(rollout, images="send").request
    assert request is not None
    text, *images = request.messages[-1]["content"]
    assert "What is it?\n[image 1]" in text["text"]
    assert "[tool]\n```\n[image 2]\n```" in text["text"]
    assert images == [
        {"type": "text", "text": "[image 1]"},
        {"type": "image_url", "image_url": {"url": PNG}},
        {"type": "text", "text": "[image 2]"},
        {"type": "image_url", "image_url": {"url": "https://x/y"}},
    ]
    default = job_of(rollout).request
    assert default is not None
    assert "What is it?\n[image]" in default.messages[-1]["content"]


def test_a_rollout_without_images_has_the_same_request_whatever_the_setting() -> None:
    rollout = Rollout(
        prompt=[{"role": "user", "content": "p"}], response=[{"role": "assistant", "content": "r"}]
    )
    assert len({job_of(rollout, images=how).key for how in ("placeholder", "send", "reject")}) == 1


def test_images_that_a_judge_does_not_take_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    part = IMAGES["OpenAI"]
    one = Rollout(prompt=[{"role": "user", "content": [part]}], response="r")
    many = Rollout(prompt=[{"role": "user", "content": [part] * 21}], response="r")
    refused = job_of(one, images="reject")
    assert (refused.decided, refused.request) == (Status.REJECTED, None)
    assert "`images` is `reject`; set it to `send`" in str(refused.error)
    assert "has 21 images, and a request has at most 20" in str(job_of(many, images="send").error)
    monkeypatch.setattr(views, "MAX_IMAGE_BYTES", len(PNG) - 1)
    assert "a request has at most" in str(job_of(one, images="send").error)
