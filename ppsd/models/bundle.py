"""The components that training needs, loaded together and checked against each other."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from paddle import nn
from ppdiffusers import AutoencoderKL, UNet2DConditionModel
from ppdiffusers.schedulers import DDPMScheduler
from ppdiffusers.transformers import AutoTokenizer, CLIPTextModel

from ppsd.models.loading import load_component
from ppsd.models.unet_init import random_unet
from ppsd.models.widening import INPUTS, widen_conv_in

logger = logging.getLogger(__name__)


@dataclass
class Bundle:
    """vae, text_encoder and unet are layers; scheduler_config is what the checkpoint's scheduler folder says.

    embeddings: the rows of new tokens that are trained beside the text encoder's own (see ppsd.models.placeholder).
    adapter: what is trained beside the layers of the networks (see ppsd.adapters.network).
    controlnet: what tells the UNet where things are: a ControlNet or a T2I-Adapter.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: Any
    unet: UNet2DConditionModel
    scheduler_config: Mapping[str, Any]
    embeddings: Optional[nn.Layer] = None
    adapter: Optional[nn.Layer] = None
    controlnet: Optional[nn.Layer] = None

    @property
    def vae_scale_factor(self) -> int:
        """Pixels a latent."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def layers(self) -> list[nn.Layer]:
        """All networks."""
        return [self.vae, self.text_encoder, self.unet, *([] if self.controlnet is None else [self.controlnet])]

    def freeze(self, trained: Iterable[nn.Layer]) -> None:
        """Only the parameters of these layers (which may be parts of networks) keep gradients."""
        for layers, frozen in ((self.layers(), True), (trained, False)):
            for layer in layers:
                for parameter in layer.parameters():
                    parameter.stop_gradient = frozen


def load_bundle(
    pretrained: str,
    *,
    vae: Optional[str] = None,
    text_encoder: Optional[str] = None,
    unet: Optional[str] = None,
    unet_variant: Optional[str] = None,
    tokenizer: Optional[str] = None,
    model_max_length: Optional[int] = None,
    flags: tuple[str, str] = ("--pretrained_model_name_or_path", "--unet_name_or_path"),
    concat_channels: Optional[int] = 0,
    widen: bool = False,
) -> Bundle:
    """Load a pipeline's components. A `.json` as `unet` means a randomly initialised one; the others override folders
    of `pretrained`. Raises ValueError naming the flag for whatever cannot be loaded or does not fit together; `flags`
    are those of the pipeline and the UNet.

    concat_channels: of the UNet's input beside the latents (inpainting 5, depth 1; None: whatever it has of these).
    widen: a UNet without them gets them (see ppsd.models.widening).
    """
    pipeline_flag, unet_flag = flags

    def load(cls: Any, path: Optional[str], folder: str, flag: str, **kwargs: Any) -> Any:
        if path is not None:
            return load_component(cls, path, None, flag, **kwargs)
        return load_component(cls, pretrained, folder, pipeline_flag, **kwargs)

    variant = {"variant": unet_variant} if unet_variant else {}
    bundle = Bundle(
        vae=load(AutoencoderKL, vae, "vae", "--vae_name_or_path"),
        text_encoder=load(CLIPTextModel, text_encoder, "text_encoder", "--text_encoder_name_or_path"),
        tokenizer=load_tokenizer(pretrained, tokenizer, model_max_length, pipeline_flag),
        unet=random_unet(unet)
        if unet is not None and unet.endswith(".json")
        else load(UNet2DConditionModel, unet, "unet", unet_flag, **variant),
        scheduler_config=load_scheduler_config(pretrained, pipeline_flag),
    )
    if widen and concat_channels is not None and bundle.unet.config.in_channels == bundle.vae.config.latent_channels:
        widen_conv_in(bundle.unet, bundle.vae.config.latent_channels + concat_channels)
    check_fit(bundle, concat_channels)
    return bundle


def load_tokenizer(
    pretrained: str,
    tokenizer: Optional[str] = None,
    model_max_length: Optional[int] = None,
    flag: str = "--pretrained_model_name_or_path",
) -> Any:
    """The tokenizer of a pipeline, or `tokenizer` instead. Raises ValueError naming the flag."""
    length = {} if model_max_length is None else {"model_max_length": model_max_length}
    if tokenizer is not None:
        return load_component(AutoTokenizer, tokenizer, None, "--tokenizer_name", **length)
    return load_component(AutoTokenizer, pretrained, "tokenizer", flag, **length)


def load_scheduler_config(pretrained: str, flag: str) -> dict[str, Any]:
    """The JSON of a pipeline's scheduler folder, local or from the hub."""
    if Path(pretrained).exists():
        file = Path(pretrained, "scheduler", "scheduler_config.json")
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(f"{flag}: cannot read the noise schedule from {file}: {error}") from error
    return dict(load_component(DDPMScheduler, pretrained, "scheduler", flag).config)


def check_fit(bundle: Bundle, concat_channels: Optional[int] = 0) -> None:
    """Raise ValueError when the components were not made for each other. concat_channels: as in `load_bundle`."""
    wide, wanted = bundle.text_encoder.config.hidden_size, bundle.unet.config.cross_attention_dim
    if wide != wanted:
        raise ValueError(f"the text encoder gives {wide} features and the UNet's cross_attention_dim is {wanted}")
    channels, wanted = bundle.vae.config.latent_channels, bundle.unet.config.in_channels
    if concat_channels is None:
        concat_channels = wanted - channels if wanted - channels in INPUTS else 0
    if channels + concat_channels != wanted:
        beside = f" beside {concat_channels} of the condition" if concat_channels else ""
        kind = INPUTS.get(wanted - channels)
        hint = f": it is {kind}" if kind else ""
        raise ValueError(
            f"the VAE gives {channels} latent channels{beside} and the UNet's in_channels is {wanted}{hint}"
        )
    length = bundle.tokenizer.model_max_length
    longest = bundle.text_encoder.config.max_position_embeddings
    if length > longest:
        raise ValueError(f"--model_max_length is {length}; the text encoder takes at most {longest} tokens")
    words, rows = len(bundle.tokenizer), bundle.text_encoder.config.vocab_size
    if words > rows:
        raise ValueError(f"--tokenizer_name: {words} tokens, and the text encoder knows {rows}")
