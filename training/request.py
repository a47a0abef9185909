"""What may be asked of a generator: the options that sample.py and evaluate.py share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pointillist.configs.options import option

# What a stopped run may change when it continues.
FREE = {"run", "batch_size", "device", "tokenizer", "draft"}


@dataclass
class Request:
    run: str = option("", "the generator's run folder or one of its checkpoints")
    num_images: int = option(100, "images")
    classes: str = option(
        "balanced", "balanced | random | proportional (as in training) | names or numbers, e.g. 207,360"
    )
    seed: int = option(0, "names the noise: same seed, same images")
    batch_size: int = option(64, "images decoded together; does not change them")
    sampler: Any = option("ancestral", "how codes are drawn", part="sampling")
    guidance: str = option("1", "unconditional + guidance * (conditional - unconditional); 1 = off; or 1..4:linear")
    guidance_interval: list[float] = option([0, 1], "share of the codes from which and up to which guidance acts")
    temperature: str = option("1", "0 = greedy; this and the next three may change along the codes too: 1.2..0.8")
    top_k: str = option("0", "0 = off")
    top_p: str = option("1", "1 = off")
    min_p: str = option("0", "least probability as a share of the greatest; 0 = off")
    draft: str = option("", "a run whose generator drafts for sampler.drafter=model; same tokenizer")
    unit: dict[str, Any] = option({}, "options of the unit that may change after training: unit.passes=20")
    model: dict[str, Any] = option({}, "options of the model that may: model.flow_steps=50")
    order: str = option("", "for units of any order: a scan order, or an .npy of slots [N] or [num_images, N]")
    image: str = option("", "inpainting: the image whose codes are kept where the mask lets them")
    mask: str = option("", "what to paint: left | right | top | bottom | centre, or an image file, white = paint")
    tokenizer: str = option("", "the tokenizer's run, if it is not where it was")
    device: str = option("auto", "auto = cuda if there is one, else cpu")
    precision: Literal["fp32", "bf16", "fp64"] = option("fp32", "of the generator's weights and cache")
