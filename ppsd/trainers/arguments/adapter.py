"""Flags of adapters (LoRA and LyCORIS), which any method can train instead of the models' own weights."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, fields
from typing import Any, Optional

from ppsd.adapters.algorithms import ALGORITHMS
from ppsd.adapters.base import Dropout, Options
from ppsd.adapters.targets import PRESETS, Wanted
from ppsd.trainers.arguments.flag import flag

logger = logging.getLogger(__name__)

RANK = 4
PLAIN = ("attn-only", "attn-mlp", "unet-transformer-only")
"""Presets without convolutions larger than 1 x 1."""

_MODULES = {"networks.lora": "lora", "lycoris.kohya": "locon"}
"""kohya's names; the second says its algorithm with --network_args algo=..."""

_ARGS = {"algo": "network_module", "preset": "network_preset", "dropout": "network_dropout", "use_cp": "use_tucker"}
_ARGS.update({"dora_wd": "use_dora", "weight_decompose": "use_dora"})
_SAME = ("conv_dim", "conv_alpha", "rank_dropout", "module_dropout", "use_tucker", "factor", "decompose_both")
_ARGS.update({name: name for name in (*_SAME, "down_lr_weight", "mid_lr_weight", "up_lr_weight", "loraplus_lr_ratio")})
"""Keys of --network_args, as kohya's and LyCORIS's pages give them, and the flags that they are here."""


@dataclass
class AdapterArguments:
    """Flags of adapters: small layers that are trained beside the models, which stay as they are (--network_module)."""

    network_module: Optional[str] = flag(
        None,
        f"{', '.join(ALGORITHMS)}: train such adapters and nothing else of the models; the result is a LoRA file."
        " kohya's names networks.lora and lycoris.kohya (with --network_args algo=...) are understood, too.",
    )
    network_dim: Optional[int] = flag(None, "Rank of the adapters. Default: 4.")
    network_alpha: Optional[float] = flag(
        None, "What an adapter adds is scaled by alpha / rank. Default: the rank, so 1 (kohya's scripts: alpha 1)."
    )
    conv_dim: Optional[int] = flag(
        None,
        "Rank for convolutions larger than 1 x 1; 0: none of these. Default: --network_dim, and 0 for lora where"
        " neither --network_preset nor --network_targets says which layers.",
    )
    conv_alpha: Optional[float] = flag(None, "Alpha of these. Default: scaled as the others are.")
    network_dropout: float = flag(0.0, "Share of the values between down and up (LoRA) that is dropped in training.")
    rank_dropout: float = flag(
        0.0, "Share of the ranks that a sample does without in training; of other adapters than LoRA's: of the outputs."
    )
    module_dropout: float = flag(0.0, "Probability with which a whole adapter is left out of a training step.")
    use_tucker: bool = flag(False, "Factorize kernels of convolutions larger than 1 x 1 as well (Tucker, LyCORIS).")
    use_dora: bool = flag(False, "Train the length of each output's weights by itself (DoRA, arXiv 2402.09353).")
    factor: int = flag(-1, "lokr: size of the smaller factor of the Kronecker product; -1: as near as possible.")
    decompose_both: bool = flag(False, "lokr: the smaller factor is a product of thin matrices, too.")
    network_preset: Optional[str] = flag(
        None,
        f"Which layers: {', '.join(PRESETS)}. Default: attn-mlp for lora (with --conv_dim: locon), full for the"
        " others.",
    )
    network_targets: Optional[list[str]] = flag(
        None, "Instead: the layers in whose path one of these regular expressions is found, e.g. 'attn2.to_[kv]$'."
    )
    network_train_unet_only: bool = flag(False, "Adapters for the UNet alone, which is the default here.")
    network_train_text_encoder_only: bool = flag(False, "Adapters for the text encoder alone.")
    down_lr_weight: Optional[list[float]] = flag(
        None,
        "Multiples of the learning rate on the UNet's way down, for conv_in and for each layer of its blocks (12 in"
        " Stable Diffusion 1 and 2); 0: no adapter there.",
    )
    mid_lr_weight: Optional[float] = flag(None, "The same for the mid block.")
    up_lr_weight: Optional[list[float]] = flag(None, "The same for the up blocks.")
    loraplus_lr_ratio: float = flag(
        1.0, "lora, locon: the ups' learning rate over the downs' (LoRA+, arXiv 2402.12354)."
    )
    network_weights: Optional[str] = flag(
        None, "Begin with the factors of this LoRA file (of any form), which must be of the same layers and ranks."
    )
    network_args: Optional[list[str]] = flag(None, f"kohya's way to say these: key=value ... of {', '.join(_ARGS)}.")

    def __post_init__(self) -> None:
        if self.network_module in _MODULES and self.network_alpha is None:
            logger.info("--network_alpha is the rank here where it is not given; in kohya's scripts it is 1")
        self.network_module = _MODULES.get(str(self.network_module), self.network_module)
        types = {field.name: str(field.type) for field in fields(AdapterArguments)}
        words = [word for text in self.network_args or [] for word in re.split(r"\s+(?=\w+=)", text.strip())]
        for word in words:
            key, equals, text = word.partition("=")
            if not equals or key not in _ARGS:
                raise ValueError(
                    f"--network_args {word}: it must be key=value, with one of the keys {', '.join(_ARGS)}"
                )
            if key == "algo" and text == "lora" and self.network_module == "locon":
                text = "locon"  # LyCORIS's own name for it
            setattr(self, _ARGS[key], _value(word, text, types[_ARGS[key]]))
        if self.network_train_text_encoder_only:
            self.train_text_encoder = True

    @property
    def adapted_parts(self) -> tuple[str, ...]:
        """The models that get adapters."""
        if self.network_train_text_encoder_only:
            return ("text_encoder",)
        return ("unet", "text_encoder") if self.train_text_encoder else ("unet",)

    @property
    def adapter_options(self) -> Options:
        return Options(self.adapter_targets.dim, self.use_tucker, self.use_dora, self.factor, self.decompose_both)

    @property
    def adapter_dropout(self) -> Dropout:
        return Dropout(self.network_dropout, self.rank_dropout, self.module_dropout)

    @property
    def adapter_targets(self) -> Wanted:
        """Which layers, with which ranks and alphas."""
        lora, dim = self.network_module == "lora", RANK if self.network_dim is None else self.network_dim
        alpha = self.network_alpha or float(dim)
        plain = lora and self.network_preset in (None, *PLAIN) and not self.network_targets
        conv_dim = self.conv_dim if self.conv_dim is not None else (0 if plain else dim)
        scaled = conv_dim * alpha / dim
        conv_alpha = scaled if self.conv_alpha is None else self.conv_alpha or float(conv_dim)
        usual = ("locon" if conv_dim else "attn-mlp") if lora else "full"
        patterns = self.network_targets or ()
        preset, any_rank = self.network_preset or usual, self.network_module == "lokr"
        return Wanted(dim, alpha, conv_dim, conv_alpha, preset, patterns, any_rank)

    def check_adapter(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
        if self.network_module is None:
            for each in fields(AdapterArguments):
                if getattr(self, each.name) != each.default:
                    raise ValueError(f"--{each.name} is of adapters: say which with --network_module, e.g. lora")
            return
        for name, allowed in (("network_module", ALGORITHMS), ("network_preset", PRESETS)):
            if getattr(self, name) not in (None, *allowed):
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be {' or '.join(allowed)}")
        for name, least in (("network_dim", 1), ("conv_dim", 0), ("network_alpha", 0), ("conv_alpha", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} is {value}; it must be at least {least}")
        for name in ("network_dropout", "rank_dropout", "module_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.network_train_unet_only and self.train_text_encoder:
            raise ValueError("--network_train_unet_only and training the text encoder exclude each other")
        if self.network_preset and self.network_targets:
            raise ValueError("--network_preset and --network_targets exclude each other")
        for pattern in self.network_targets or []:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"--network_targets {pattern}: no regular expression: {error}") from error
        if self.network_module != "lokr" and (self.factor != -1 or self.decompose_both):
            raise ValueError(f"--factor and --decompose_both are of lokr, not of {self.network_module}")
        if self.factor < -1 or self.factor == 0:
            raise ValueError(f"--factor is {self.factor}; it must be -1 or at least 1")
        if self.loraplus_lr_ratio != 1 and self.network_module not in ("lora", "locon"):
            raise ValueError(f"--loraplus_lr_ratio is of lora and locon, not of {self.network_module}")
        if self.loraplus_lr_ratio <= 0:
            raise ValueError(f"--loraplus_lr_ratio is {self.loraplus_lr_ratio}; it must be above 0")
        for name in ("use_tucker", "conv_alpha"):
            if getattr(self, name) not in (None, False) and not self.adapter_targets.conv_dim:
                raise ValueError(f"--{name} is for convolutions larger than 1 x 1: give --conv_dim")
        self._check_block_weights()

    def _check_block_weights(self) -> None:
        if self.network_train_text_encoder_only:
            for name in ("down_lr_weight", "mid_lr_weight", "up_lr_weight"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} is of the UNet, and --network_train_text_encoder_only leaves it out")
        weights = [*(self.down_lr_weight or []), self.mid_lr_weight or 0.0, *(self.up_lr_weight or [])]
        if min(weights) < 0:
            raise ValueError("--down_lr_weight, --mid_lr_weight and --up_lr_weight must be at least 0")


def _value(word: str, text: str, kind: str) -> Any:
    """`text` as the flag of that type. Raises ValueError naming the word."""
    try:
        if "bool" in kind:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if "list" in kind:
            return [float(number) for number in text.split(",")]
        if "int" in kind:
            return int(text)
        return float(text) if "float" in kind else text
    except (ValueError, KeyError) as error:
        raise ValueError(f"--network_args {word}: {text!r} is no value for it") from error
