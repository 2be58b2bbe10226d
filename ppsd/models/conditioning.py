"""From token ids to what the denoiser is told."""

from __future__ import annotations

from typing import Optional

import paddle
from paddle import nn

from ppsd.types import Condition


class Conditioning:
    """What CLIP says. input_ids int64 [B,k*L], or its cached hidden -> Condition(hidden [B,k*(L-2)+2,D]).

    chunks: k runs of L ids, each with both ends, are encoded by themselves; of the states that belong together the
    first one's beginning and the last one's end stay, as in kohya's sd-scripts and A1111 (see `join_chunks`).
    clip_skip: see `hidden_states`. Training, previews and eval.py all have their states from here.
    Raises ValueError for a clip_skip that the text encoder does not have the layers for.
    """

    def __init__(self, text_encoder: nn.Layer, trained: bool, clip_skip: Optional[int] = None, chunks: int = 1) -> None:
        check_clip_skip(text_encoder, clip_skip)
        self.text_encoder, self.trained = text_encoder, trained
        self.clip_skip, self.chunks = clip_skip, chunks

    def __call__(self, input_ids: paddle.Tensor, hidden: Optional[paddle.Tensor] = None) -> Condition:
        """Raises ValueError for cached states of a text encoder that is trained."""
        if hidden is not None:
            if self.trained:
                raise ValueError(
                    "--train_text_encoder and --placeholder_token cannot act: the data holds what the text encoder said"
                    " before"
                )
            return Condition(hidden=hidden)
        learning = self.trained and paddle.is_grad_enabled()
        if self.text_encoder.training != learning:
            self.text_encoder.train() if learning else self.text_encoder.eval()
        with paddle.set_grad_enabled(learning):
            if self.chunks == 1:
                return Condition(hidden=hidden_states(self.text_encoder, input_ids, self.clip_skip))
            rows = input_ids.reshape([input_ids.shape[0] * self.chunks, -1])
            states = hidden_states(self.text_encoder, rows, self.clip_skip)
            return Condition(hidden=join_chunks(states, self.chunks))


def hidden_states(text_encoder: nn.Layer, input_ids: paddle.Tensor, clip_skip: Optional[int]) -> paddle.Tensor:
    """Normed states of the `clip_skip`-th layer from the end: input_ids [B,L] -> [B,L,D].

    As kohya's --clip_skip and A1111's "Clip skip" count: 1 or None is the last layer, 2 the one before it. The final
    layer norm follows in any case. (diffusers' `clip_skip` is one less, and its pipelines skip nothing for the negative
    prompt; here that is read as a dropped caption is.) Counted from the last layer that the checkpoint has: those of
    Stable Diffusion 2 are made without OpenCLIP's last one, so None already is what that model was trained with, and 2
    would be OpenCLIP's third from the end.
    """
    if clip_skip in (None, 1):
        return text_encoder(input_ids)[0]
    states = text_encoder(input_ids, output_hidden_states=True, return_dict=True).hidden_states
    return text_encoder.text_model.final_layer_norm(states[-clip_skip])


def join_chunks(states: paddle.Tensor, chunks: int) -> paddle.Tensor:
    """[B*k,L,D], k = chunks -> [B,k*(L-2)+2,D]: the first one's BOS, everyone's middle, the last one's end.

    `get_hidden_states` of kohya's sd-scripts (library/train_util.py). What it does otherwise for Stable Diffusion 2 (a
    chunk of padding alone gets its second state as its first) never acts: it compares an id with the token's text.
    """
    length, width = states.shape[1:]
    rows = states.reshape([-1, chunks, length, width])
    middle = rows[:, :, 1:-1].reshape([rows.shape[0], chunks * (length - 2), width])
    return paddle.concat([rows[:, 0, :1], middle, rows[:, -1, -1:]], axis=1)


def check_clip_skip(text_encoder: nn.Layer, clip_skip: Optional[int]) -> None:
    """Raise ValueError where there is no such layer."""
    layers = text_encoder.config.num_hidden_layers
    if clip_skip is not None and not 1 <= clip_skip <= layers:
        raise ValueError(f"--clip_skip is {clip_skip}; the text encoder has {layers} layers, of which 1 is the last")


def freeze_skipped(text_encoder: nn.Layer, clip_skip: Optional[int]) -> None:
    """The layers that `clip_skip` skips are not trained: the loss does not depend on them, and no gradient comes."""
    layers = list(text_encoder.text_model.encoder.layers)
    for layer in layers[len(layers) + 1 - (clip_skip or 1) :]:
        for parameter in layer.parameters():
            parameter.stop_gradient = True
