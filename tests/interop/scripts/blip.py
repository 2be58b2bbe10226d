"""What transformers' BLIP computes and writes. Run by the tests with the interpreter of `.venv-interop`.

blip.py JOBS.json: a list of {"folder", "pictures", "output", "saved", "prompts", "searches" (options of generate)};
captions of each prompt and search go into captions.json beside the output, the model into the folder "saved".
"""

import itertools
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import BertTokenizer, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor


def main() -> None:
    for job in json.loads(Path(sys.argv[1]).read_text()):
        model = BlipForConditionalGeneration.from_pretrained(job["folder"]).eval()
        given = load_file(job["pictures"])
        processor = BlipProcessor(
            BlipImageProcessor.from_pretrained(job["folder"]), BertTokenizer.from_pretrained(job["folder"])
        )
        shown = processor.image_processor([given["image"].numpy()], return_tensors="pt").pixel_values
        count = len(given["pictures"])
        ids = torch.tensor([[model.config.text_config.bos_token_id, 5, 9]] * count)
        with torch.no_grad():
            made = {"shown": shown, "logits": model(given["pictures"], ids).logits}
        save_file({name: value.contiguous() for name, value in made.items()}, job["output"])
        captions = []
        for prompt, options in itertools.product(job["prompts"], job["searches"]):
            texts = processor.tokenizer([prompt] * count, return_tensors="pt").input_ids if prompt else None
            tokens = model.generate(given["pictures"], texts, **options)
            captions.append(processor.batch_decode(tokens, skip_special_tokens=True))
        Path(job["output"]).with_name("captions.json").write_text(json.dumps(captions))
        model.save_pretrained(job["saved"])


if __name__ == "__main__":
    main()
