"""Which weights a run trains, which stay, and which have a copy in half precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ppsd.adapters.layers import weight_shape
from ppsd.adapters.targets import Wanted, find_targets
from ppsd.models.footprint import Footprint, Shapes, numbers, shapes_of
from ppsd.models.footprint_control import (
    COPIED,
    adapter_shapes,
    copied_layers,
    decoder_shapes,
    own_shapes,
    shapes_of_layers,
)
from ppsd.models.widening import DEPTH, INPAINTING
from ppsd.trainers.memory_settings import Settings


def trained_shapes(model: Footprint, settings: Settings) -> Shapes:
    """textual_inversion trains a few rows, which are nothing beside the rest."""
    if settings.method == "textual_inversion":
        return [(1, model.text.hidden_size)]
    if settings.controls:
        unlocked = [] if settings.sd_locked else decoder_shapes(model.unet)
        return averaged_shapes(model, settings) + unlocked
    if settings.adapts:
        return _adapters(model, settings)
    return averaged_shapes(model, settings) + (model.text.shapes() if settings.train_text_encoder else [])


def averaged_shapes(model: Footprint, settings: Settings) -> Shapes:
    """Those of the trained ones that --use_ema averages."""
    if settings.method == "textual_inversion":
        return [(1, model.text.hidden_size)]
    if settings.controls:
        return _control(model, settings)
    return _adapters(model, settings) if settings.adapts else _unet(model, settings)


def _unet(model: Footprint, settings: Settings) -> Shapes:
    """With the further input channels of the method."""
    added = {"inpainting": INPAINTING, "depth": DEPTH}.get(settings.method, 0)
    first, channels = model.unet.conv_in.weight, int(model.vae.config.latent_channels)
    shapes = shapes_of(model.unet)
    if added and first.shape[1] == channels:
        at = next(i for i, parameter in enumerate(model.unet.parameters()) if parameter is first)
        shapes[at] = (first.shape[0], channels + added, *first.shape[2:])
    return shapes


def _control(model: Footprint, settings: Settings) -> Shapes:
    if settings.control_type == "t2i_adapter":
        return adapter_shapes(model.unet, model.latent_factor)
    own = own_shapes(model.unet, embedding_channels=settings.embedding_channels(model.latent_factor))
    if settings.adapts:
        return own + _adapters(model, settings)
    return own + shapes_of_layers(copied_layers(model.unet))


def _adapters(model: Footprint, settings: Settings) -> Shapes:
    return [shape for layer in _adapted(model, settings) for shape in layer]


def _adapted(model: Footprint, settings: Settings) -> Iterator[Shapes]:
    """Down and up of each layer's LoRA; of a ControlNet's, beside the copy of the encoder alone."""
    rank = settings.network_dim
    targets = find_targets({"unet": model.unet}, Wanted(rank, rank, 0, 0, "attn-mlp"))
    weights = [
        weight_shape(each.layer) for each in targets if not settings.controls or each.place.path.startswith(COPIED)
    ]
    if settings.train_text_encoder:
        d, wide = model.text.hidden_size, model.text.intermediate_size
        weights += [*[(d, d)] * 4, (wide, d), (d, wide)] * model.text.num_hidden_layers
    for shape in weights:
        yield [(rank, shape[1]), (shape[0], rank)]


@dataclass(frozen=True)
class Frozen:
    """Numbers of weights that stay. halves: as ppsd.models.memory.halve_frozen casts them; copied: AMP keeps their
    copies for the backward pass; part: of the step, all parts of which AMP O2 casts."""

    count: int
    halves: bool
    copied: bool = True
    part: bool = True


def frozen(model: Footprint, settings: Settings) -> list[Frozen]:
    """By network. The VAE's copies are gone after its pass."""
    text, vae = numbers(model.text.shapes()), numbers(shapes_of(model.vae))
    found = [Frozen(vae, halves=True, copied=False)]
    if not settings.trains_text:
        found.append(Frozen(text, halves=settings.method != "textual_inversion"))
    if settings.small or settings.controls:
        decoder = 0 if settings.sd_locked else numbers(decoder_shapes(model.unet))
        found.append(Frozen(numbers(shapes_of(model.unet)) - decoder, halves=settings.sd_locked))
    if settings.controls and settings.adapts:
        copy = numbers(shapes_of_layers(copied_layers(model.unet)))  # of which ControlLora shows but the adapters
        found.append(Frozen(copy, halves=False, part=False))
    return found
