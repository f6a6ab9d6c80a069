"""CLIP's tokenizer, built from the vocabulary file that open_clip carries, so that no hub is asked."""

from __future__ import annotations

import gzip
from functools import lru_cache
from pathlib import Path

from open_clip.tokenizer import bytes_to_unicode, default_bpe
from transformers import CLIPTokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
# 49,152 less the 256 bytes and the two marks: what OpenAI's CLIP takes of the file.
_MERGES = 49152 - 256 - 2
CONTEXT_LENGTH = 77


def build_tokenizer(architecture: str) -> CLIPTokenizer:
    """The tokenizer of an architecture; its ids are those of `open_clip.SimpleTokenizer`.

    SD2.x pads with "!" (id 0), all others with the end mark (id 49407).
    """
    vocabulary, merges = _vocabulary()
    tokenizer = CLIPTokenizer(vocab=dict(vocabulary), merges=list(merges), model_max_length=CONTEXT_LENGTH)
    if architecture == "sd2":
        # Set afterwards: given to the constructor, "!" would be a special token, and a "!" in a prompt
        # would become id 0 where SD2 was trained with 256.
        tokenizer.pad_token = "!"
    return tokenizer


@lru_cache
def _vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    lines = gzip.decompress(Path(default_bpe()).read_bytes()).decode().split("\n")[1 : _MERGES + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = list(bytes_to_unicode().values())
    letters += [f"{letter}</w>" for letter in letters]
    words = [*letters, *("".join(pair) for pair in merges), _START, _END]
    return {word: number for number, word in enumerate(words)}, merges
