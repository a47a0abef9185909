"""What may be asked of a generator: the options that sample.py and evaluate.py share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pointillist.configs.options import load, option, to_dict
from pointillist.configs.recipes import read_recipe, recipes
from pointillist.data.pixels import Pixels

# What a stopped run may change when it continues: none of it is in the images. A checkpoint is known by its weights.
FREE = {"run", "zoo", "weights", "batch_size", "device", "tokenizer", "draft", "published", "captions", "text_encoder"}
LAW = {"classes", "guidance", "guidance_interval", "temperature", "top_k", "top_p", "min_p", "unit", "model", "order"}
# What a published row says of its images.
RECIPE = LAW | {"zoo", "pixels", "precision", "decoder_precision", "image", "mask"}


@dataclass
class Request:
    run: str = option("", "the generator's run folder or one of its checkpoints")
    zoo: str = option("", "a published checkpoint in place of a run: llamagen-l-384, var-d16, ...; docs/zoo.md")
    weights: str = option("", "of zoo: folder or file that holds them, a Hugging Face repository, or random")
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
    draft: str = option("", "a run, or a name of the zoo, that drafts for sampler.drafter=model; same tokenizer")
    unit: dict[str, Any] = option({}, "options of the unit that may change after training: unit.passes=20")
    model: dict[str, Any] = option({}, "options of the model that may: model.flow_steps=50")
    order: str = option("", "for units of any order: a scan order, or an .npy of slots [N] or [num_images, N]")
    image: str = option("", "inpainting: the image whose codes are kept where the mask lets them")
    mask: str = option("", "what to paint: left | right | top | bottom | centre, or an image file, white = paint")
    captions: str = option("", "text to image: a file of captions, see training/captions.py")
    prompt: str = option("", "text to image: one caption for all images")
    text_encoder: str = option("", "folder of the text encoder's weights, where captions are text")
    tokenizer: str = option("", "the tokenizer's run, if it is not where it was")
    device: str = option("auto", "auto = cuda if there is one, else cpu")
    precision: Literal["fp32", "bf16", "fp64", "mixed", "fp16_autocast"] = option(
        "fp32",
        "of the generator's weights and cache; mixed: bf16 matrices, and cache where that is faster, the rest fp32, "
        "for CPUs; fp16_autocast: fp32 weights, half products, decoder included",
    )
    decoder_precision: Literal["fp32", "bf16"] = option(
        "fp32", "of the tokenizer's decoder, weights and activations; bf16 is faster and moves pixels by a level or so"
    )
    compile: bool = option(
        False, "torch.compile the network's passes: faster, and half a minute later (CPU), or CUDA graphs (GPU)"
    )
    pixels: Pixels = option(Pixels(), "how images come to one size and to uint8")
    published: str = option("", "name of the published row that this repeats, for evaluate.py table")


def differing(o: Request) -> list[str]:
    """Options in which a request differs from the recipe of the published row that it names; none without a recipe."""
    if not o.published or o.published not in (files := recipes()):
        return []
    recipe = read_recipe(files[o.published])
    if recipe.not_runnable or not o.zoo:
        return []
    known = {word for word in recipe.words()}
    asked, usual = to_dict(o), to_dict(load(Request, None, sorted(known)))
    return [name for name in sorted(RECIPE) if not _same(asked[name], usual[name])]


def _same(a: Any, b: Any) -> bool:
    """Values of an option; 2 and 2.0 are one number, however they were typed."""
    try:
        return float(a) == float(b)
    except (TypeError, ValueError):
        return a == b
