"""All Linear and Conv layers of the published models' UNets and text encoders, from their configs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

ATTENTION = [f"attn{n}.{name}" for n in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")]
TRANSFORMER = [*ATTENTION, "ff.net.0.proj", "ff.net.2"]
RESNET = ["conv1", "time_emb_proj", "conv2"]


def unet_names(widths: Sequence[int], depths: Sequence[int], per_block: int = 2, sdxl: bool = False) -> Iterator[str]:
    """widths, depths: channels, and transformers in an attention (0: no attention), of each down block."""
    yield from ("conv_in", "time_embedding.linear_1", "time_embedding.linear_2", "conv_out")
    if sdxl:
        yield from ("add_embedding.linear_1", "add_embedding.linear_2")
    skips = [widths[0]]
    last = len(widths) - 1
    for i, (width, depth) in enumerate(zip(widths, depths)):
        within = skips[-1]
        for j in range(per_block):
            yield from layer(f"down_blocks.{i}", j, within != width, depth)
            within = width
            skips.append(width)
        if i < last:
            yield f"down_blocks.{i}.downsamplers.0.conv"
            skips.append(width)
    yield from layer("mid_block", 0, False, depths[-1] or 1)
    yield from layer("mid_block", 1, False, 0)
    for i, depth in enumerate(reversed(depths)):
        for j in range(per_block + 1):
            yield from layer(f"up_blocks.{i}", j, True, depth)  # every up resnet takes a skip
        if i < last:
            yield f"up_blocks.{i}.upsamplers.0.conv"


def layer(block: str, j: int, shortcut: bool, depth: int) -> Iterator[str]:
    yield from (f"{block}.resnets.{j}.{name}" for name in [*RESNET, *(["conv_shortcut"] if shortcut else [])])
    if depth:
        yield from (f"{block}.attentions.{j}.{name}" for name in ("proj_in", "proj_out"))
        inner = f"{block}.attentions.{j}.transformer_blocks"
        yield from (f"{inner}.{k}.{name}" for k in range(depth) for name in TRANSFORMER)


def text_names(layers: int) -> Iterator[str]:
    for i in range(layers):
        stem = f"text_model.encoder.layers.{i}"
        yield from (f"{stem}.self_attn.{name}_proj" for name in ("q", "k", "v", "out"))
        yield from (f"{stem}.mlp.fc1", f"{stem}.mlp.fc2")


SD1 = list(unet_names((320, 640, 1280, 1280), (1, 1, 1, 0)))
SDXL = list(unet_names((320, 640, 1280), (0, 2, 10), sdxl=True))
