"""`lora_adapter_metadata`, where diffusers from 0.35 on keeps PEFT's configuration: rank and alpha of each layer."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from ppsd.adapters.places import Place

KEY = "lora_adapter_metadata"


def alpha_from(config: Mapping[str, Any], place: Place, rank: int) -> Optional[float]:
    """As PEFT would scale a layer of this rank; None where the configuration says nothing of its part.

    Patterns are regular expressions that end where the path ends, after a dot or at its start; the first one counts.
    """
    alpha = config.get(f"{place.part}.lora_alpha")
    if alpha is None:
        return None
    patterns = config.get(f"{place.part}.alpha_pattern") or {}
    alpha = next((own for name, own in patterns.items() if re.match(rf"(.*\.)?({name})$", place.path)), alpha)
    return float(alpha) * (rank**0.5 if config.get(f"{place.part}.use_rslora") else 1.0)


def read_config(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Empty if there is none. Raises ValueError for what is no JSON object."""
    config = json.loads(metadata.get(KEY) or "{}")
    if not isinstance(config, dict):
        raise ValueError(f"{KEY} holds {type(config).__name__}, not an object")
    return config


def make_config(ranks: Mapping[Place, int], alphas: Mapping[Place, float], dora: Iterable[str]) -> str:
    """What PEFT needs to know of these layers; dora: the parts that are DoRA."""
    config: dict[str, Any] = {}
    dora = set(dora)
    for part in sorted({place.part for place in ranks}):
        of_part = {place.path: ranks[place] for place in ranks if place.part == part}
        rank = Counter(of_part.values()).most_common(1)[0][0]
        scaled = {path: alphas[Place(part, path)] for path in of_part}
        alpha = Counter(scaled.values()).most_common(1)[0][0]
        entries = {
            "r": rank,
            "lora_alpha": alpha,
            "rank_pattern": {path: own for path, own in of_part.items() if own != rank},
            "alpha_pattern": {path: own for path, own in scaled.items() if own != alpha},
            "target_modules": sorted(of_part),
            "use_dora": part in dora,
            "lora_bias": False,
            "peft_type": "LORA",
        }
        config.update({f"{part}.{name}": value for name, value in entries.items()})
    return json.dumps(config, indent=2, sort_keys=True)
