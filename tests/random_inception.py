"""A weights file in the published Inception format with random values, for tests."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pointillist.evaluation.networks.inception import Extractor


def pictures(count: int, size: int, seed: int = 0) -> Tensor:
    """Coloured blobs under a little noise, uint8 [count, 3, size, size]: more like images than noise alone."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=rng)
    smooth = nn.functional.interpolate(coarse, size=size, mode="bicubic")
    noise = torch.randn(count, 3, size, size, generator=rng)
    return (255 * smooth + 12 * noise).clamp(0, 255).to(torch.uint8)


@torch.no_grad()
def write(path: str | Path, seed: int = 0) -> Path:
    """Write a random network with BatchNorm statistics of pictures and noise: signals neither die nor explode.

    Rows of the classifier are orthogonal to the mean feature and scaled until the logits of different images differ by
    about 2: classes then depend on the image, as an Inception Score above 1 needs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Extractor()
        network.fc.bias.normal_()  # as large as to show when it is added by mistake
        noise = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    images = torch.cat([pictures(6, 64, seed), noise])
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain average, of one batch: its statistics
        norm.train()
    (pool,) = network(images)
    mean, weight = pool.mean(0, keepdim=True), network.fc.weight
    weight -= (weight @ mean.T) @ mean / mean.square().sum()
    weight *= 2 / (pool @ weight.T).std(0).mean()
    torch.save(network.state_dict(), path)
    return Path(path)
