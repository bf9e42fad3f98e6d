"""Writes a random Llama of some thousand weights with a tokenizer of its own; nothing is downloaded.

Run with the servers' interpreter: `python tiny_model.py FOLDER`.
"""

import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# One token a printable character; "Ġ" is how byte-level tokenizers write the space. Without a line
# break, since a digit alone on the last line is a score that a judge may well write.
ALPHABET = ["Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} {% endfor %}assistant: "


def main(folder: str) -> None:
    """Write model and tokenizer."""
    vocabulary = {token: i for i, token in enumerate(["<pad>", "<eos>", *ALPHABET])}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", chat_template=TEMPLATE
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16384,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.do_sample = True
    # So that no reply is a lone digit, which would be a score as well.
    model.generation_config.min_new_tokens = 16
    model.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
