"""Does a sampler draw from the model's own law? A test on a real model, for samples that sample.py has written.

    python benchmarks/surprise.py runs/emoji/token/sweep/points/*

Along an image that was drawn from p, log p(code) plus the entropy of p has mean 0 given all codes before it, so its
sum over the image has mean 0 whatever the model: a martingale. For each folder the mean over its images is printed in
nats, with its standard error; exact samplers lie within a few of them of 0, relaxed and approximate ones need not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pointillist.configs.files import read_json
from pointillist.configs.options import run
from pointillist.models.dist import Categorical
from pointillist.sampling.laws import target
from pointillist.sampling.noise import Noise
from pointillist.training.load import load_generator

BATCH = 125
NUMBERS = ("guidance", "temperature", "top_k", "top_p", "min_p", "guidance_interval")


def main(argv: list[str]) -> None:
    folders = [Path(word) for word in argv]
    if not folders or any(word.startswith("-") for word in argv):
        print(__doc__)
        return
    print("| samples | sampler | law | images | excess surprise, nats an image | standard error |")
    print("| --- | --- | --- | --- | --- | --- |")
    for folder in folders:
        sample = read_json(folder / "sample.json")
        excess = surprise(folder, sample["options"], sample["checkpoint"]["path"])
        mean, error = float(excess.mean()), float(excess.std()) / len(excess) ** 0.5
        name = sample["options"]["sampler"]["name"]
        print(f"| {folder.name} | {name} | {sample['law']} | {len(excess)} | {mean:+.2f} | {error:.2f} |", flush=True)


@torch.inference_mode()
def surprise(folder: Path, options: dict, checkpoint: str) -> Tensor:
    """[num_images] sum over the codes of log p(code) + entropy(p), of laws one group after another.

    Raises ValueError for requests whose law is not that of the numbers alone, and for continuous codes.
    """
    if options["image"] or options["mask"] or options["order"]:
        raise ValueError(f"{folder} was sampled with image=, mask= or order=; only plain requests can be tested")
    generator, _ = load_generator(checkpoint, unit=options["unit"], model=options["model"])
    if not generator.spec.vocab:
        raise ValueError(f"{folder} holds continuous codes, whose density is not known")
    law, files = target(generator, *(options[k] for k in NUMBERS)), np.load(folder / "codes.npz")
    codes, labels = (torch.from_numpy(files[k].astype(np.int64)) for k in ("codes", "labels"))
    found = []
    for images in tqdm(torch.arange(len(codes)).split(BATCH), leave=False):
        state, total = law.start(labels[images], images, Noise(options["seed"])), 0
        for group in law.groups(state):
            dist, drawn = law.query(state, group[:, None]), codes[images[:, None], group][:, None]
            assert isinstance(dist, Categorical), "chained books have no laws side by side"
            logp = dist.logits.double().log_softmax(-1)
            entropy = torch.special.entr(logp.exp()).sum(-1)
            entropy = entropy if logp.ndim == 4 else entropy.sum(-1)
            total = total + (Categorical(logp).log_prob(drawn) + entropy).sum((1, 2))
            law.commit(state, drawn, keep=1)
        found.append(total)
    return torch.cat(found)


if __name__ == "__main__":
    run(main)
