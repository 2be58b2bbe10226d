"""Flags of what is trained and how its loss is made."""

from dataclasses import dataclass
from typing import Optional

from ppsd.trainers.arguments.adapter import AdapterArguments
from ppsd.trainers.arguments.flag import flag
from ppsd.trainers.arguments.placeholder import PlaceholderArguments
from ppsd.trainers.arguments.text import TextArguments


@dataclass
class ModelArguments(TextArguments, PlaceholderArguments, AdapterArguments):
    """What is trained and how its loss is made."""

    pretrained_model_name_or_path: str = flag(
        "CompVis/stable-diffusion-v1-4", "Pipeline folder or hub name: vae, text encoder, tokenizer, unet, scheduler."
    )
    vae_name_or_path: Optional[str] = flag(None, "VAE folder or hub name; overrides the pipeline's.")
    text_encoder_name_or_path: Optional[str] = flag(None, "CLIP text encoder folder or hub name; overrides.")
    unet_name_or_path: Optional[str] = flag(
        None, "UNet folder or hub name; overrides. A .json config means a randomly initialised UNet."
    )
    tokenizer_name: Optional[str] = flag(None, "Tokenizer folder or hub name; overrides.")
    prediction_type: Optional[str] = flag(
        None, "epsilon, v_prediction or sample. Default: what the pipeline's scheduler says."
    )
    num_inference_steps: int = flag(50, "Denoising steps of a preview.")
    train_text_encoder: bool = flag(False, "Train the text encoder too.")
    noise_offset: float = flag(0.0, "Scale of offset noise (crosslabs.org, diffusion with offset noise).")
    snr_gamma: Optional[float] = flag(None, "Gamma of Min-SNR loss weights (arXiv 2303.09556); 5.0 is recommended.")
    input_perturbation: float = flag(0.0, "Scale of input perturbation (arXiv 2301.11706); 0.1 is recommended.")

    def paths(self) -> list[Optional[str]]:
        """What is read."""
        return [
            self.pretrained_model_name_or_path,
            self.vae_name_or_path,
            self.text_encoder_name_or_path,
            self.unet_name_or_path,
            self.tokenizer_name,
            self.network_weights,
        ]
