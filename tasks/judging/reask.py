"""Asks a judge once more for the verdict line that its reply lacks; pure."""

from dataclasses import replace

from oyer.config import rubric
from oyer.config.reward import JudgeConfig
from oyer.tasks.endpoint.types import ChatRequest
from oyer.tasks.parsing.normalize import normalise, strip_thinking, unwrap

_ASK = {
    "zh": "你的回复里没有可读的评分。请只输出一行，不写别的内容：\n最终评分: N\n"
    "（N 是 {low:g} 到 {high:g} 之间的一个数。）",
    "en": "Your reply holds no readable score. Reply with one line and nothing else:\n"
    "Final score: N\n(N is one number from {low:g} to {high:g}.)",
}


def reask(request: ChatRequest, reply: str, judge: JudgeConfig) -> ChatRequest:
    """Continue the conversation with the reply and a request for its last line.

    A reply without visible text gives the request as it was: many endpoints refuse an empty
    assistant message, and chat templates that drop thinking make one of thinking alone.
    """
    visible = strip_thinking(normalise(reply))
    if visible is None or not unwrap(visible).strip():
        return request
    low, high = judge.scale
    question = _ASK[rubric.parse(judge.rubric).language].format(low=low, high=high)
    return replace(
        request,
        messages=[
            *request.messages,
            {"role": "assistant", "content": reply},
            {"role": "user", "content": question},
        ],
    )
