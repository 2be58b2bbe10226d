"""Flags of the optimizer and of what saves memory."""

from dataclasses import dataclass
from typing import Any, Optional

from ppsd.trainers.arguments.flag import flag
from ppsd.trainers.optimizers.choices import OPTIONS, optimizer_name, optimizer_options

_ADAM = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
_HALF = {"bfloat16": "bf16", "float16": "fp16"}


@dataclass
class OptimizerArguments:
    """Flags of the optimizer and of what saves memory."""

    optimizer_type: Optional[str] = flag(
        None,
        f"{', '.join(OPTIONS)}, in any case; default AdamW. AdamW8bit and Lion8bit are ppsd's own and keep moments as"
        " bitsandbytes does: 1 byte a number, weights below 4096 numbers in float32. Adafactor keeps sums of rows and"
        " columns; its learning rate is the schedule's unless --optimizer_args relative_step=True (kohya's default).",
    )
    optimizer_args: Optional[list[str]] = flag(
        None,
        "key=value ..., e.g. betas=0.9,0.99 weight_decay=0.01; they come before --weight_decay and the flags of AdamW.",
    )
    optim: str = flag("adamw", "paddlenlp's name for --optimizer_type.")
    use_8bit_adam: bool = flag(False, "diffusers' name for --optimizer_type AdamW8bit.")
    vae_slicing: bool = flag(False, "The VAE takes one picture at a time, in training, caches and previews.")
    vae_tiling: bool = flag(
        False,
        "The VAE takes pictures above its own size (512) in tiles that overlap; changes latents a bit.",
    )
    frozen_dtype: str = flag(
        "float32",
        "Data type of the VAE, and of a UNet and a text encoder that are not trained: float32, or"
        " bfloat16 with --bf16, float16 with --fp16 (diffusers' weight_dtype). Exports keep float32.",
    )

    def __post_init__(self) -> None:
        flag_name = "--optim" if self.optimizer_type is None else "--optimizer_type"
        name = optimizer_name(str(self.optimizer_type or getattr(self.optim, "value", self.optim)), flag_name)
        if self.use_8bit_adam:
            if name != "AdamW" and name != "AdamW8bit":
                raise ValueError(f"{flag_name} {name} and --use_8bit_adam exclude each other")
            name = "AdamW8bit"
        self.optimizer_type, self.optim = name, "adamw"  # the base knows no other
        super().__post_init__()  # type: ignore[misc]

    def check_optimizers(self) -> None:
        """Raise ValueError, naming the flag, for values that cannot work."""
        name = str(self.optimizer_type)
        options = optimizer_options(name, self.optimizer_args or [])
        if not name.startswith("AdamW"):
            for field, default in _ADAM.items():
                if getattr(self, field) != default:
                    raise ValueError(f"--{field} is AdamW's; for {name} there are --optimizer_args {OPTIONS[name]}")
        self._check_relative_step(options)
        self._check_frozen_dtype()

    def _check_relative_step(self, options: dict[str, Any]) -> None:
        if options.get("warmup_init") and not options.get("relative_step"):
            raise ValueError("--optimizer_args warmup_init=True needs relative_step=True")
        rates = {getattr(self, f"{part}_learning_rate") for part in ("unet", "text_encoder")}
        if options.get("relative_step") and len(rates) > 1:
            raise ValueError(
                "--optimizer_args relative_step=True: all weights then have one step size; leave"
                " --unet_learning_rate and --text_encoder_learning_rate out"
            )

    def _check_frozen_dtype(self) -> None:
        if self.frozen_dtype == "float32":
            return
        if self.frozen_dtype not in _HALF:
            raise ValueError(f"--frozen_dtype is {self.frozen_dtype}; it must be float32, bfloat16 or float16")
        if str(getattr(self, "device", None)).startswith("cpu"):
            raise ValueError(
                f"--frozen_dtype {self.frozen_dtype} needs a GPU: paddle's CPU kernels compute in float32. Leave it out"
                " here"
            )
        if not getattr(self, _HALF[self.frozen_dtype]):
            raise ValueError(f"--frozen_dtype {self.frozen_dtype} needs --{_HALF[self.frozen_dtype]}")
