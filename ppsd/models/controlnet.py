"""ControlNets and T2I-Adapters: made for a UNet, loaded, and what of them is trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional

import paddle
from paddle import nn
from ppdiffusers import ControlNetModel, T2IAdapter, UNet2DConditionModel

from ppsd.models.bundle import Bundle
from ppsd.models.loading import load_component

FLAG = "--controlnet_model_name_or_path"
EMBEDDING_CHANNELS = (16, 32, 96, 256)
"""Of the layers that see the picture; each but the first halves its sides, so that it ends at the latents' size."""
_SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block")


def new_controlnet(
    unet: UNet2DConditionModel, channels: int = 3, embedding_channels: Sequence[int] = EMBEDDING_CHANNELS
) -> ControlNetModel:
    """A copy of the UNet's encoder and middle block whose outputs begin at exactly 0. channels: of the picture.

    The layers that see the picture are drawn from paddle's global generator (seed it first): Gaussian, as the paper has
    them. Raises ValueError for a UNet with more inputs than latents.
    """
    if unet.config.in_channels != unet.config.out_channels:
        raise ValueError(
            f"a ControlNet is made of a UNet with {unet.config.out_channels} input channels; this one has"
            f" {unet.config.in_channels}"
        )
    controlnet = ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=tuple(embedding_channels), conditioning_channels=channels
    )
    if unet.config.addition_embed_type is not None:  # of SDXL; ppdiffusers 0.29 leaves it at random
        controlnet.add_embedding.set_state_dict(unet.add_embedding.state_dict())
    return controlnet


def new_t2i_adapter(unet: UNet2DConditionModel, vae_scale_factor: int, channels: int = 3) -> T2IAdapter:
    """A random one, of the paper's size for this UNet: features for each of its down blocks. channels: the picture's.

    Draws from paddle's global generator.
    """
    return T2IAdapter(
        in_channels=channels,
        channels=list(unet.config.block_out_channels),
        num_res_blocks=2,
        downscale_factor=vae_scale_factor,
    )


def embedding_channels(vae_scale_factor: int) -> tuple[int, ...]:
    """EMBEDDING_CHANNELS, fewer or more of them where latents are not 8 times smaller than pictures."""
    count = int(math.log2(vae_scale_factor)) + 1
    return (*EMBEDDING_CHANNELS[:count], *[EMBEDDING_CHANNELS[-1]] * (count - len(EMBEDDING_CHANNELS)))


def load_t2i_adapter(path: str, bundle: Bundle, flag: str = FLAG, variant: Optional[str] = None) -> T2IAdapter:
    """A T2I-Adapter's folder or hub name; variant: "ema", the averaged weights. Raises ValueError naming the flag where
    it cannot be loaded whole, or was made for another UNet or VAE."""
    adapter = load_component(T2IAdapter, path, None, flag, **({"variant": variant} if variant else {}))
    channels = list(adapter.config.channels)
    if adapter.config.adapter_type == "light_adapter":  # has one more level than it names
        channels.append(channels[-1])
    own = channels, int(adapter.config.downscale_factor)
    wanted = list(bundle.unet.config.block_out_channels), bundle.vae_scale_factor
    if own != wanted:
        raise ValueError(
            f"{flag}: {path} is of another model: its channels and downscale_factor are {own}, and must be {wanted}"
        )
    return adapter


def load_controlnet(
    path: str, unet: UNet2DConditionModel, flag: str = FLAG, variant: Optional[str] = None
) -> ControlNetModel:
    """A ControlNet's folder (Paddle or torch layout) or hub name; variant: "ema", the averaged weights. Raises
    ValueError naming the flag where it cannot be loaded whole, or was made for another UNet."""
    controlnet = load_component(ControlNetModel, path, None, flag, **({"variant": variant} if variant else {}))
    for key in _SHARED:
        own, wanted = plain(controlnet.config[key]), plain(unet.config[key])
        if own != wanted:
            raise ValueError(f"{flag}: {path} is of another model: its {key} is {own}, and the UNet's {wanted}")
    return controlnet


def plain(value: object) -> object:
    return list(value) if isinstance(value, (list, tuple)) else value


def trained_layers(bundle: Bundle, sd_locked: bool = True, only_mid_control: bool = False) -> list[nn.Layer]:
    """What learns when a ControlNet is trained: all of it that has a say, and with sd_locked False the UNet's decoder.

    As in the paper's repository (cldm/cldm.py, configure_optimizers), where the decoder is all that comes after the
    middle block. With only_mid_control the zero convolutions of the down blocks have no say.
    """
    assert bundle.controlnet is not None
    unused = ("controlnet_down_blocks",) if only_mid_control else ()
    layers = [layer for name, layer in bundle.controlnet.named_children() if name not in unused]
    return layers if sd_locked else [*layers, *decoder_layers(bundle.unet)]


def decoder_layers(unet: UNet2DConditionModel) -> list[nn.Layer]:
    """What comes after the middle block."""
    return [unet.up_blocks, unet.conv_norm_out, unet.conv_out]


@paddle.no_grad()
def mute_down_blocks(controlnet: ControlNetModel) -> None:
    """Have the ControlNet say 0 to the down blocks: trained with only_mid_control, it then is one anywhere."""
    for parameter in controlnet.controlnet_down_blocks.parameters():
        parameter.set_value(paddle.zeros_like(parameter))
