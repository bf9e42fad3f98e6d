"""Whose tokens a response's tokens are, and which rows of a batch are compared."""

from typing import Any

import pytest

from oyer.manager.verl.handover import expected_samples, members
from oyer.manager.verl.turns import as_turns, own_mask

EOS, HEAD = 1, 2


class Chat:
    """A tokenizer with one token a character and ChatML's markers."""

    chat_template = "chatml"
    all_special_ids = (EOS, HEAD)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        text = text.replace("<|im_end|>", "\x01").replace("<|im_start|>", "\x02")
        return [ord(letter) for letter in text]

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        return "".join(chr(i) for i in ids if not (skip_special_tokens and i in (EOS, HEAD)))

    def apply_chat_template(
        self, messages: Any, add_generation_prompt: bool = False, **_: Any
    ) -> str:
        turns = (f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        return "".join(turns) + "<|im_start|>assistant\n" * add_generation_prompt


CALL = '<tool_call>{"name": "search", "arguments": {"q": "x"}}</tool_call>'
RESULT = "\n<|im_start|>user\n<tool_response>\nA page.\n</tool_response><|im_end|>\n"
NEXT = "<|im_start|>assistant\n"


def test_without_verls_mask_the_turns_are_found_by_the_template() -> None:
    chat = Chat()
    ids = chat.encode(f"{CALL}<|im_end|>{RESULT}{NEXT}It is 42.<|im_end|>")
    mask = own_mask(ids, chat, {EOS})
    assert sum(mask) == len(CALL) + 1 + len("It is 42.") + 1
    call, result, answer = as_turns(ids, mask, chat)
    assert call["role"] == answer["role"] == "assistant"
    assert call["tool_calls"][0]["function"] == {"name": "search", "arguments": '{"q": "x"}'}
    assert result == {"role": "tool", "content": "A page."}
    assert answer["content"] == "It is 42."


def test_what_the_policy_writes_without_an_end_is_its_own() -> None:
    chat = Chat()
    ids = chat.encode(f"I say {NEXT}that I am right.")
    assert own_mask(ids, chat, {EOS}) == [1] * len(ids)
    chat.chat_template = ""
    assert own_mask(chat.encode(f"a<|im_end|>{NEXT}b"), chat, {EOS}).count(0) == 0


def test_a_user_and_a_role_in_a_header_are_named() -> None:
    chat = Chat()
    ids = chat.encode(f"Hi.<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n{NEXT}Now.")
    messages = as_turns(ids, own_mask(ids, chat, {EOS}), chat)
    assert [one["role"] for one in messages] == ["assistant", "user", "assistant"]
    assert messages[1]["content"] == "And now?"


@pytest.mark.parametrize("text", ["<tool_call>no json</tool_call>", f"{CALL} and <tool_call>{{"])
def test_a_call_that_cannot_be_read_stays_text(text: str) -> None:
    ids = Chat().encode(text)
    assert as_turns(ids, [1] * len(ids), Chat()) == [{"role": "assistant", "content": text}]


def test_copies_and_baselines_belong_to_no_group() -> None:
    rows = members(["a", "a", "b", "b", "a"], 2, validate=True, step=3)
    assert [row["group_size"] for row in rows] == [2, 2, 2, 2, 1]
    assert len({row["sample"] for row in rows if row["group_size"] == 2}) == 2
    sampled = [False, True, True, True]
    greedy, *others = members(["a"] * 4, 4, validate=False, sampled=sampled)
    assert greedy["group_size"] == 1
    # A row of the batch is missing: no group waits for it.
    assert [row["group_size"] for row in others] == [3, 3, 3]


@pytest.mark.parametrize(
    ("counts", "expected"), [([4, 4], 4), ([5, 5], 4), ([2, 2], 2), ([3, 2], 2), ([1], 1), ([9], 4)]
)
def test_a_batch_that_says_nothing_has_the_samples_of_a_configured_number(
    counts: list[int], expected: int
) -> None:
    assert expected_samples(counts, [4, 2, None]) == expected
