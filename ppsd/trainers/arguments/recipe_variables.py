"""Environment variables of the public recipe that are defaults of flags."""

from __future__ import annotations

import os

RECIPE_VARIABLES = {
    "FLAG_USE_EMA": "use_ema",
    "FLAG_RECOMPUTE": "recompute",
    "FLAG_XFORMERS": "enable_xformers_memory_efficient_attention",
    "FLAG_FUSED_LINEAR": "fused_linear",
}


def recipe_defaults() -> dict[str, bool]:
    """Defaults that the public recipe's environment variables set; a flag on the command line overrides them."""
    values = {name: os.environ[name] for name in RECIPE_VARIABLES if name in os.environ}
    return {RECIPE_VARIABLES[name]: _is_true(name, value) for name, value in values.items()}


def _is_true(name: str, value: str) -> bool:
    if value.lower() in ("1", "true", "yes", "y", "t", "on"):
        return True
    if value.lower() in ("0", "false", "no", "n", "f", "off", ""):
        return False
    raise ValueError(f"{name} is {value!r}; it must be 0 or 1")
