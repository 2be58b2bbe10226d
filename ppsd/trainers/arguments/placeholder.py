"""Flags of new tokens whose embeddings are trained."""

from dataclasses import dataclass
from typing import Optional

from ppsd.formats.vector_names import file_stem
from ppsd.models.placeholder import Placeholder, check_token
from ppsd.trainers.arguments.flag import flag


@dataclass
class PlaceholderArguments:
    """Flags of new tokens whose embeddings are trained: alone (textual inversion), or beside other weights."""

    placeholder_token: Optional[list[str]] = flag(
        None, "New tokens to learn, e.g. '<toy>'; pivotal tuning where other weights are trained, too."
    )
    initializer_token: Optional[list[str]] = flag(
        None,
        "Words that the new tokens begin as, one for each or one for all; of several words, in quotes, the vectors"
        " begin as one each in turn. Default: random.",
    )
    num_vectors: Optional[list[int]] = flag(
        None,
        "Vectors of each new token, one number for each or one for all; <toy> in a caption is all of them. Default: 1.",
    )
    embedding_learning_rate: Optional[float] = flag(None, "Learning rate of the new tokens. Default: --learning_rate.")
    train_text_encoder_ti_frac: float = flag(
        1.0, "Share of the steps in which new tokens are trained; then they stay, and the rest is trained on."
    )

    def placeholders(self) -> list[Placeholder]:
        """What the flags say. Raises ValueError naming them."""
        tokens = self.placeholder_token or []
        initializers = _for_each("initializer_token", self.initializer_token or [None], tokens)
        counts = _for_each("num_vectors", self.num_vectors or [1], tokens)
        return [Placeholder(*each) for each in zip(tokens, counts, initializers)]

    def check_placeholder(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
        if not self.placeholder_token:
            for name in ("initializer_token", "num_vectors", "embedding_learning_rate"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} is of new tokens: name them with --placeholder_token")
            if self.train_text_encoder_ti_frac != 1:
                raise ValueError("--train_text_encoder_ti_frac is of new tokens: name them with --placeholder_token")
        for token in self.placeholder_token or []:
            check_token(token)
        if len(set(self.placeholder_token or [])) != len(self.placeholder_token or []):
            raise ValueError("--placeholder_token: a token is named twice")
        files: dict[str, str] = {}
        for token in self.placeholder_token or []:
            other = files.setdefault(file_stem(token).lower(), token)
            if other != token:
                raise ValueError(f"--placeholder_token: {other} and {token} would be saved as one file; rename one")
        if any(count < 1 for count in self.num_vectors or []):
            raise ValueError(f"--num_vectors is {self.num_vectors}; it must be at least 1")
        if not 0 < self.train_text_encoder_ti_frac <= 1:
            raise ValueError(
                f"--train_text_encoder_ti_frac is {self.train_text_encoder_ti_frac}; it must be above 0 and at most 1"
            )
        self.placeholders()


def _for_each(name: str, values: list, tokens: list[str]) -> list:
    if len(values) not in (1, len(tokens)):
        raise ValueError(f"--{name} has {len(values)} values for {len(tokens)} tokens: give one for each, or one")
    return values * len(tokens) if len(values) == 1 else values
