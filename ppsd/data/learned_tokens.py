"""Learned tokens of several vectors in captions and prompts: "<toy>" is read as "<toy> <toy>_1 <toy>_2"."""

from __future__ import annotations

import re
from typing import Any, Callable

from ppsd.formats.vector_names import vectors_of


def expander(tokenizer: Any) -> Callable[[str], str]:
    """Writes out the vectors of the tokens that were added to the tokenizer until now.

    As diffusers' pipelines do (`maybe_convert_prompt`), but a text where they are written out already stays the same.
    """
    added = getattr(tokenizer, "added_tokens_encoder", {})
    wholes = {token: " ".join(names) for token, names in vectors_of(added).items()}
    if not wholes:
        return lambda text: text
    singles = {name for whole in wholes.values() for name in whole.split(" ")}
    longest_first = sorted({*wholes.values(), *singles}, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: pattern.sub(lambda match: wholes.get(match.group(), match.group()), text)
