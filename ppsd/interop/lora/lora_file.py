"""What a LoRA file holds, in one neutral form: the factors of each layer, named and shaped as kohya's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ppsd.adapters.places import Place

FORMS = ("kohya", "diffusers", "ppdiffusers")


@dataclass
class LoraFile:
    """layers: float32 factors, of each layer by the last part of their names in kohya's and LyCORIS's files.

    form: the one it was read from. dtypes: how the factors were stored there (F32, F16, BF16); F32 where it is silent.
    layers_per_block: of the UNet, where its blocks have the original model's names (SDXL in kohya's form).
    """

    layers: dict[Place, dict[str, np.ndarray]]
    metadata: dict[str, str] = field(default_factory=dict)
    form: str = "kohya"
    dtypes: dict[tuple[Place, str], str] = field(default_factory=dict)
    layers_per_block: int = 2

    @property
    def sdxl(self) -> bool:
        """Two text encoders, an image's size as condition, several transformers a block, or metadata that says so."""
        said = f"{self.metadata.get('ss_base_model_version')} {self.metadata.get('modelspec.architecture')}"
        return (
            "sdxl" in said
            or "stable-diffusion-xl" in said
            or any(
                place.part == "text_encoder_2" or "add_embedding" in place.path or "transformer_blocks.1." in place.path
                for place in self.layers
            )
        )

    def dtype(self, place: Place, leaf: str) -> str:
        return self.dtypes.get((place, leaf), "F32")


Layers = Mapping[Place, Mapping[str, np.ndarray]]
