"""Classifies how a reply ended, by the endpoint's `finish_reason`.

The values in `_TABLE` come from the API references of OpenAI, Azure, Anthropic, Bedrock, Gemini,
Cohere, Mistral, DeepSeek, z.AI, Baidu, watsonx, Together, OpenRouter, LiteLLM, the Vercel AI SDK,
vLLM, SGLang, TGI, llama.cpp and Ollama.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class End(StrEnum):
    """What a `finish_reason` says about the reply's text."""

    COMPLETE = "complete"
    """The model ended the reply."""
    CUT = "cut"
    """A token limit ended the reply; a retry would be truncated as well."""
    FILTERED = "filtered"
    """A content filter ended or replaced the reply."""
    BROKEN = "broken"
    """The endpoint or a gateway failed; a retry can help."""
    UNKNOWN = "unknown"
    """The value is in no list."""


_TABLE = {
    End.COMPLETE: """stop stopped stop_sequence stop_sequence_reached stop_string stop_word stop_token stop_criteria
        end_turn eos eos_token eos_token_id eos_found end_of_text endoftext end_of_sequence end_of_turn
        complete completed success succeeded finish finished normal done word
        tool_calls tool_call tool_use function_call function_calls""",
    End.CUT: """length limit error_limit max_length max_tokens maximum_tokens max_new_tokens max_output
        max_output_tokens max_completion_tokens token_limit model_length max_model_length
        context_length context_length_exceeded context_window_exceeded model_context_window_exceeded
        truncated incomplete not_finished in_progress pause_turn""",
    End.FILTERED: """content_filter content_filtered filtered safety image_safety recitation image_recitation
        blocklist prohibited_content image_prohibited_content spii language sensitive
        guardrail_intervened error_toxic refusal refused blocked moderation flagged""",
    End.BROKEN: """error failed failure insufficient_system_resource network_error abort aborted cancel
        cancelled canceled user_cancel timeout timed_out time_limit interrupted disconnected preempted
        overloaded unavailable load unload other image_other no_image malformed_function_call
        malformed_response malformed_model_output malformed_tool_use unexpected_tool_call
        too_many_tool_calls missing_thought_signature repetition""",
}
_ENDS = {word.replace("_", ""): end for end, words in _TABLE.items() for word in words.split()}

_PARTS = (
    (
        End.FILTERED,
        re.compile(
            "filter|safety|blocked|blocklist|prohibit|recitation|spii|sensitive|moderat|guardrail"
            "|toxic|refus|policy|violation|censor|copyright"
        ),
    ),
    (
        End.BROKEN,
        re.compile(
            "error|abort|cancel|timed?out|timelimit|ratelimit|resource|network|fail|unavailable"
            "|overload|interrupt|disconnect|capacity|preempt|exception|quota|malformed|crash|shutdown"
        ),
    ),
    (End.CUT, re.compile("length|tokens|tokenlimit|window|context|truncat|incomplete")),
)
"""Classifies values that are not in the table by what they contain; the first match wins."""


def end_of(finish_reason: str | None) -> End:
    """Classify a `finish_reason`, in any case and with any detail after a colon.

    None is `COMPLETE`: some servers send no reason with a complete reply.
    """
    if not finish_reason:
        return End.COMPLETE
    head, _, detail = finish_reason.partition(":")
    end = _end_of_word(_plain(head))
    # The worse half decides: `content_filter: MAX_TOKENS`, `stop: error`.
    if end in (End.COMPLETE, End.UNKNOWN) and detail.strip():
        return _end_of_word(_plain(detail))
    return end


def first_choice(data: Any) -> dict[str, Any]:
    """Return the first choice of a response body; empty without choices."""
    choices = data.get("choices") if isinstance(data, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def finish_reason(data: Any, choice: Mapping[str, Any]) -> str | None:
    """Return why the reply ended; a reason that names a failure wins (OpenRouter sends two).

    A blocked prompt gives `content_filter: …`, whichever field reports it.
    """
    blocked = None if isinstance(choice.get("message"), dict) else _blocked(data)
    words = [_word(choice.get(name)) for name in ("finish_reason", "native_finish_reason")]
    failed = (word for word in words if end_of(word) not in (End.COMPLETE, End.UNKNOWN))
    return blocked or next(failed, words[0] or words[1])


def _word(value: Any) -> str | None:
    # SGLang's own API sends an object with a type.
    if isinstance(value, dict):
        value = value.get("type")
    if value is None or value == "":
        return None
    return value if isinstance(value, str) else "not a word"


def _blocked(data: Any) -> str | None:
    """Return why a prompt was blocked: Gemini's `promptFeedback`, Azure's `prompt_filter_results`."""
    if not isinstance(data, dict):
        return None
    for name in ("promptFeedback", "prompt_feedback"):
        feedback = data.get(name)
        if isinstance(feedback, dict):
            reason = feedback.get("blockReason") or feedback.get("block_reason")
            if isinstance(reason, str):
                return f"content_filter: {reason}"
    prompts = data.get("prompt_filter_results")
    for prompt in prompts if isinstance(prompts, list) else ():
        results = prompt.get("content_filter_results") if isinstance(prompt, dict) else None
        for category, result in results.items() if isinstance(results, dict) else ():
            if isinstance(result, dict) and result.get("filtered") is True:
                return f"content_filter: {category}"
    return None


def _end_of_word(word: str) -> End:
    if word in _ENDS:
        return _ENDS[word]
    return next((end for end, part in _PARTS if part.search(word)), End.UNKNOWN)


def _plain(word: str) -> str:
    """Reduce `FinishReason.MAX_TOKENS` and `maxTokens` alike to `maxtokens`."""
    plain = re.sub(r"[^a-z0-9]+", "", word.lower())
    return re.sub(r"^finishreason(?=.)", "", plain)
