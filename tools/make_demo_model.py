"""Make the tiny pipeline of the demo: tokenizer, text encoder, VAE and scheduler, but no UNet.

The UNet is what the demo trains; everything it is given was made by this script from the pictures of
ppsd/data/demo.py:

- a byte-level CLIP tokenizer whose merges were learned on the demo captions (other text falls apart into letters);
- a CLIP text encoder trained to tell shape, shape colour and background in the padding after the caption;
- an x8 AutoencoderKL trained to reproduce the pictures, with the scaling factor that gives its latents unit variance.

About 35 minutes on one CPU core. The same arguments on the same machine give the same weights.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ppsd import compat  # isort: skip  before paddle

import numpy as np
import paddle
from paddle.nn.functional import l1_loss
from ppdiffusers import AutoencoderKL, DDIMScheduler
from ppdiffusers.transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from tqdm import tqdm

from ppsd.data.demo import CAPTIONS, HELD_OUT, NAMES, SHAPES, fill_caption, make_caption, make_example, nearest_color
from ppsd.models.saving import save_component

compat.apply()
logger = logging.getLogger(__name__)

SPECIAL = ("<|startoftext|>", "<|endoftext|>")
MAX_LENGTH = 77
TEXT_CONFIG = {
    "architectures": ["CLIPTextModel"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "projection_dim": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": MAX_LENGTH,
    "hidden_act": "quick_gelu",
}
VAE_CONFIG = {
    "block_out_channels": (8, 16, 32, 48),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 1,  # normalising each of 8 channels by itself would lose the colour
    "sample_size": 64,
}
SCHEDULER_CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["ppdiffusers", "DDIMScheduler"],
    "text_encoder": ["ppdiffusers.transformers", "CLIPTextModel"],
    "tokenizer": ["ppdiffusers.transformers", "CLIPTokenizer"],
    "unet": ["ppdiffusers", "UNet2DConditionModel"],
    "vae": ["ppdiffusers", "AutoencoderKL"],
}
KL_WEIGHT = 5e-4
COLOR_WORDS = (*NAMES, "brown", "gray", "gold", "silver", "teal", "navy", "violet", "beige", "maroon", "turquoise")
"""The text encoder knows more colours than are drawn: with so many pairs it has to learn what binds a colour to its
place, and does so for the pairs held out of its captions as well."""

COLOR_PAIRS = tuple(pair for pair in itertools.permutations(COLOR_WORDS, 2) if pair not in HELD_OUT)

NOT_SAID = len(COLOR_WORDS)
"""The shape, shape colour or background of a caption that does not mention it."""

PARTIAL_CAPTIONS = (
    "",
    "a {shape}",
    "{a_color} {color} {shape}",
    "{a_background} {background} background",
    "a {shape} on {a_background} {background} background",
)


def parse_args() -> argparse.Namespace:
    """The command line; ends the program with a usage line when it is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_path", required=True, help="Pipeline folder to write; made if needed.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text_steps", type=int, default=1000, help="Training steps of the text encoder.")
    parser.add_argument("--vae_steps", type=int, default=6000, help="Training steps of the VAE.")
    parser.add_argument("--batch_size", type=int, default=16, help="Pictures a step of the VAE.")
    return parser.parse_args()


def byte_characters() -> list[str]:
    """The 256 printable stand-ins for bytes used by CLIP's BPE, in vocabulary order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(b) for b in printable] + [chr(256 + n) for n in range(256 - len(printable))]


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent first, until each of `words` (ASCII) is one token. arXiv 1508.07909, 3.2."""
    counts = Counter(words)
    pieces = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in pieces.values()):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in zip(parts, parts[1:]):
                pairs[pair] += counts[word]
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        pieces = {word: merge(parts, best) for word, parts in pieces.items()}
    return merges


def merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """`parts` with each occurrence of `pair`, from the left, made one."""
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] += part
        else:
            merged.append(part)
    return merged


def all_captions() -> list[str]:
    """Every whole caption that the text encoder learns."""
    return [make_caption(s, c, b, i) for s in SHAPES for c, b in COLOR_PAIRS for i in range(len(CAPTIONS))]


def save_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer to `folder` and load it from there."""
    letters = byte_characters()
    merges = learn_merges([word for caption in all_captions() for word in caption.replace(",", " ").split()])
    tokens = [*letters, *(f"{c}</w>" for c in letters), *map("".join, merges), *SPECIAL]
    with tempfile.TemporaryDirectory() as scratch:
        vocab, rules = Path(scratch, "vocab.json"), Path(scratch, "merges.txt")
        vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}, ensure_ascii=False), encoding="utf-8")
        rules.write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]), encoding="utf-8")
        tokenizer = CLIPTokenizer(str(vocab), str(rules), max_len=MAX_LENGTH, model_max_length=MAX_LENGTH)
        tokenizer.save_pretrained(str(folder))
    return CLIPTokenizer.from_pretrained(str(folder))


def encode(tokenizer: CLIPTokenizer, captions: list[str]) -> paddle.Tensor:
    """Captions -> input_ids int64 [B,77]."""
    options = {"padding": "max_length", "truncation": True, "max_length": MAX_LENGTH}
    return paddle.to_tensor(np.array(tokenizer(captions, **options)["input_ids"], np.int64))


def attribute_codes(width: int, seed: int) -> list[paddle.Tensor]:
    """For shape, shape colour and background one orthogonal code for each value: 3 tables float32 [values,width]."""
    random = np.random.default_rng(seed)
    codes = np.linalg.qr(random.standard_normal((width, 3 * (NOT_SAID + 1))))[0].T * np.sqrt(width / 3)
    return [paddle.to_tensor(table.astype(np.float32)) for table in np.split(codes, 3)]


def caption_batches(seed: int, batch_size: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Captions with what they say, int64 [B,3]: indices of shape, shape colour, background, or NOT_SAID.

    A third of them says only a part, so that the encoder learns to read each part by itself.
    """
    random = np.random.default_rng(seed)
    shapes = list(SHAPES)
    while True:
        captions, labels = [], np.empty((batch_size, 3), np.int64)
        for label in labels:
            color, background = COLOR_PAIRS[random.integers(len(COLOR_PAIRS))]
            shape, templates = random.integers(len(shapes)), PARTIAL_CAPTIONS if random.random() < 1 / 3 else CAPTIONS
            template = templates[random.integers(len(templates))]
            captions.append(fill_caption(template, shapes[shape], color, background))
            values = {"{shape}": shape, "{color}": COLOR_WORDS.index(color)}
            values["{background}"] = COLOR_WORDS.index(background)
            label[:] = [value if field in template else NOT_SAID for field, value in values.items()]
        yield captions, labels


def train_text_encoder(tokenizer: CLIPTokenizer, seed: int, steps: int, batch_size: int = 64) -> CLIPTextModel:
    """A text encoder whose output, in the padding after the caption, is the sum of a code for the shape, one for its
    colour and one for the background. So a pair of colours never seen is a sum of known codes too.
    """
    paddle.seed(seed)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    model = CLIPTextModel(CLIPTextConfig(**TEXT_CONFIG, **ids, vocab_size=len(tokenizer)))
    codes = attribute_codes(TEXT_CONFIG["hidden_size"], seed)
    schedule = warm_up_and_decay(2e-3, steps)
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=model.parameters(), grad_clip=clip)
    batches = caption_batches(seed, batch_size)
    for _ in (bar := tqdm(range(steps), desc="Text encoder", unit="step")):
        captions, labels = next(batches)
        input_ids = encode(tokenizer, captions)
        wanted = sum(table[paddle.to_tensor(column)] for table, column in zip(codes, labels.T))
        after = (input_ids == tokenizer.eos_token_id).astype("float32")
        error = (model(input_ids)[0] - wanted.unsqueeze(1)).square().mean(-1)
        loss = (error * after).sum() / after.sum()
        descend(loss, optimizer, schedule)
        bar.set_postfix(error=f"{float(loss):.4f}")
    model.eval()
    return model


def picture_batches(seed: int, batch_size: int, size: int = 64) -> Iterator[paddle.Tensor]:
    """Pixels float32 [B,3,size,size] in [-1,1]; never the same picture twice."""
    index = 0
    while True:
        pictures = [np.asarray(make_example(index + i, seed, size).image) for i in range(batch_size)]
        index += batch_size
        yield paddle.to_tensor(np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


def train_vae(seed: int, steps: int, batch_size: int) -> AutoencoderKL:
    """An autoencoder of the demo pictures; `scaling_factor` is one over the standard deviation of its latents.

    The first two thirds of the steps see pictures of half the size: a quarter of the work, and the same edges.
    """
    paddle.seed(seed)
    vae = AutoencoderKL(**VAE_CONFIG)
    schedule = warm_up_and_decay(3e-3, steps)
    clip = paddle.nn.ClipGradByGlobalNorm(1.0)
    optimizer = paddle.optimizer.AdamW(schedule, parameters=vae.parameters(), weight_decay=0.0, grad_clip=clip)
    small, batches = picture_batches(seed + 1, batch_size, 32), picture_batches(seed + 2, batch_size)
    for step in (bar := tqdm(range(steps), desc="VAE", unit="step")):
        pixels = next(small if step < 2 / 3 * steps else batches)
        posterior = vae.encode(pixels).latent_dist
        error = l1_loss(vae.decode(posterior.sample()).sample, pixels)
        divergence = posterior.kl().mean() / (posterior.mean.size / batch_size)
        descend(error + KL_WEIGHT * divergence, optimizer, schedule)
        bar.set_postfix(l1=f"{float(error):.4f}", kl=f"{float(divergence):.2f}")
    vae.eval()
    vae.register_to_config(scaling_factor=measure_scaling_factor(vae, batches))
    return vae


@paddle.no_grad()
def measure_scaling_factor(vae: AutoencoderKL, batches: Iterator[paddle.Tensor]) -> float:
    """1 / standard deviation of sampled latents over 16 batches, to 4 digits."""
    latents = paddle.concat([vae.encode(next(batches)).latent_dist.sample() for _ in range(16)])
    return float(f"{1 / float(latents.std()):.4g}")


def warm_up_and_decay(learning_rate: float, steps: int) -> paddle.optimizer.lr.LRScheduler:
    """Linear warm-up over the first twentieth, then half a cosine to zero."""
    cosine = paddle.optimizer.lr.CosineAnnealingDecay(learning_rate, steps)
    return paddle.optimizer.lr.LinearWarmup(cosine, max(1, steps // 20), 0.0, learning_rate)


def descend(
    loss: paddle.Tensor, optimizer: paddle.optimizer.Optimizer, schedule: paddle.optimizer.lr.LRScheduler
) -> None:
    """One optimizer step."""
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    schedule.step()


@paddle.no_grad()
def colors_kept(vae: AutoencoderKL, seed: int, count: int = 64) -> float:
    """The fraction of pixels whose nearest named colour is the same after encoding and decoding."""
    pixels = next(picture_batches(seed, count))
    decoded = vae.decode(vae.encode(pixels).latent_dist.mode()).sample
    named = [
        nearest_color(((x.numpy().transpose(0, 2, 3, 1) + 1) * 127.5).clip(0, 255).round()) for x in (pixels, decoded)
    ]
    return float((named[0] == named[1]).mean())


def save_pipeline(folder: Path, text_encoder: CLIPTextModel, vae: AutoencoderKL) -> None:
    """Everything but the tokenizer, which stands there already, and the UNet, which model_index.json only names."""
    save_component(text_encoder, folder / "text_encoder")
    save_component(vae, folder / "vae")
    DDIMScheduler(**SCHEDULER_CONFIG).save_pretrained(str(folder / "scheduler"))
    (folder / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Make and save every part."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = parse_args()
    folder = Path(args.output_path)
    tokenizer = save_tokenizer(folder / "tokenizer")
    text_encoder = train_text_encoder(tokenizer, args.seed, args.text_steps)
    vae = train_vae(args.seed, args.vae_steps, args.batch_size)
    save_pipeline(folder, text_encoder, vae)
    logger.info("Pixels that keep their colour through the VAE: %.2f %%", 100 * colors_kept(vae, args.seed + 3))


if __name__ == "__main__":
    main()
