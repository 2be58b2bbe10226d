"""paddle_lora_weights.safetensors, as ppdiffusers saves it and its load_lora_weights reads it: Linear weights [in,out].

Of what it saves, ppdiffusers 0.29 loads only the UNet's Linear layers: it takes a convolution's rank from the wrong
axis, and raises for text encoders (a deprecation that is due). It reads no alpha.
"""

from __future__ import annotations

import numpy as np

from ppsd.adapters.base import DORA
from ppsd.adapters.lora import DOWN, UP
from ppsd.interop.lora.diffusers_form import Entries, folded, key_of, plain
from ppsd.interop.lora.lora_file import Layers


def ppdiffusers_entries(layers: Layers) -> Entries:
    """alpha / rank is in `up`. Raises ValueError for what ppdiffusers would load wrongly, or not at all."""
    made = {place: folded(factors) for place, factors in plain(layers, "ppdiffusers").items()}
    _refuse(made)
    return {
        key_of(place, leaf): (np.ascontiguousarray(factors[leaf].T), place, leaf)
        for place, factors in made.items()
        for leaf in (DOWN, UP)
    }


def _refuse(layers: Layers) -> None:
    wrong = {
        "text encoders": [place.path for place in layers if place.part != "unet"],
        "convolutions": [place.path for place, factors in layers.items() if factors[DOWN].ndim != 2],
        "DoRA": [place.path for place, factors in layers.items() if DORA in factors],
    }
    for what, paths in wrong.items():
        if paths:
            raise ValueError(
                f"ppdiffusers loads no {what} from its own form, or loads them wrongly ({len(paths)} layers:"
                f" {paths[0]}, ...): write the form diffusers, of which it reads convolutions as well"
                " (from_diffusers=True), or the other layers alone, or merge the LoRA into the weights"
            )
