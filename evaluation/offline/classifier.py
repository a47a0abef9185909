"""The feature network of the offline score: a small CNN trained once on the reference's own labels.

Features that know the classes see a missing class much better than those of a random network. Measured on the emoji
(32 px, 400 steps, mean of 2 seeds; 287 held-out images = 12.5, and in units of that): half of the classes missing 20,
one missing 11, halves of different images joined 9, 3x3 blur 5, noise of 10 % 5. With 64 features instead of 32: 18,
12, 9, 6, 6, so the width is the one that asks for half as many images. Sampling noise: random draws of the training
images score 8 +- 4 at N=300 and 2.5 +- .8 at N=1000; smaller differences say nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from pointillist import __version__
from pointillist.data.images import to_float
from pointillist.evaluation.offline.reference import Reference

RECIPE = 1  # raise it when the network or its training changes: old files are then not found, instead of misread
DIM = 32
WIDTH = 24
LARGEST = 64  # pixels; larger images are averaged down to this
SEED = 0


class FeatureNetwork(nn.Module):
    """About 65 k parameters; images float [B, 3, S, S] in [-1, 1] -> features [B, 32] and logits [B, classes]."""

    def __init__(self, num_classes: int):
        super().__init__()
        w = WIDTH
        stages = [(3, w, 2), (w, 2 * w, 1), (2 * w, 2 * w, 2), (2 * w, 3 * w, 1)]  # (in, out, stride)
        layers: list[nn.Module] = []
        for channels, out, stride in stages:
            layers += [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3 * w, DIM))
        self.head = nn.Sequential(nn.SiLU(), nn.Linear(DIM, num_classes))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[-1] > LARGEST:
            images = F.adaptive_avg_pool2d(images, LARGEST)
        features = self.body(images)  # before the non-linearity: closer to the Gaussian that the distance assumes
        return features, self.head(features)

    @torch.inference_mode()
    def measure(self, images: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
        """uint8 [n, 3, S, S] -> (features [n, 32], predicted class int64 [n])."""
        parts = [self(to_float(part)) for part in images.split(batch)]
        return torch.cat([f for f, _ in parts]), torch.cat([logits.argmax(1) for _, logits in parts])


# ----------------------------------------------------------------------------------------------------------- training


def train(images: Tensor, labels: Tensor, num_classes: int, steps: int, seed: int = SEED) -> FeatureNetwork:
    """Train on uint8 [n, 3, S, S] and int64 [n]; the same weights for the same machine and arguments.

    AdamW, one cycle, batches of 64 with every class equally likely, label smoothing .1. Raises ValueError below two
    classes. 400 steps at 32 px take 16 s on one quiet core.
    """
    present = labels.bincount(minlength=num_classes)
    if int((present > 0).sum()) < 2:
        raise ValueError("the offline score learns its features from labels and needs a reference of 2 or more classes")
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, rng = FeatureNetwork(num_classes), torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1)
        weight = 1 / present[labels].float()
        for _ in tqdm(range(steps), "training the feature network", mininterval=1):
            rows = torch.multinomial(weight, 64, replacement=True, generator=rng)
            _, logits = network(augment(to_float(images[rows]), rng))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums split over another number of threads round differently, and then the weights would."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Flip, and shift by up to 1/16 of the side; float [B, 3, S, S]. No noise: teaching the network to overlook it
    brought nothing that two seeds could show (blur 4.8 with, 5.3 without; noise 5.1 and 4.7; same accuracy)."""
    count, _, size, _ = images.shape
    flipped = torch.rand(count, 1, 1, 1, generator=rng) < 0.5
    images = torch.where(flipped, images.flip(3), images)
    reach = max(1, size // 16)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    y, x = torch.randint(0, 2 * reach + 1, (2, count, 1), generator=rng) + torch.arange(size)  # [B, S] each
    image, channel = torch.arange(count)[:, None, None, None], torch.arange(3)[:, None, None]
    return padded[image, channel, y[:, None, :, None], x[:, None, None, :]]


# --------------------------------------------------------------------------------------------------------------- cache


@dataclass(frozen=True, eq=False)
class Trained:
    """A feature network with its identity: sha256 of the weights, accuracy on the held-out images (0..1), its file."""

    network: FeatureNetwork
    sha256: str
    accuracy: float
    path: Path


def weights_hash(network: nn.Module) -> str:
    """sha256 hex over name, shape and bytes of every tensor, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_network(reference: Reference, cache: str | Path, steps: int) -> Trained:
    """The network of this reference and image size: from the cache folder, else trained and put there.

    Raises ValueError for a damaged file, or when the folder holds two networks for the same reference.
    """
    if steps < 20:
        raise ValueError(f"network_steps={steps} is too few to train on; the default is 400")
    name = re.sub(r"[^\w.-]", "_", reference.name)
    stem = f"{name}-{reference.fingerprint[:8]}-{reference.size}px-recipe{RECIPE}-{steps}steps"
    found = sorted(Path(cache).glob(f"{stem}-????????.safetensors"))
    if len(found) > 1:
        both = ", ".join(f.name for f in found)
        raise ValueError(f"{cache} holds {both} for the same reference; scores of two networks differ, keep one")
    return load(found[0], len(reference.classes)) if found else _train_and_save(reference, Path(cache) / stem, steps)


def _train_and_save(reference: Reference, stem: Path, steps: int) -> Trained:
    network = train(reference.train, reference.train_labels, len(reference.classes), steps)
    _, predicted = network.measure(reference.heldout)
    accuracy = float((predicted == reference.heldout_labels).double().mean())
    sha256 = weights_hash(network)
    path = stem.with_name(f"{stem.name}-{sha256[:8]}.safetensors")
    path.parent.mkdir(parents=True, exist_ok=True)
    card = {"accuracy": repr(accuracy), "seed": str(SEED), "torch": torch.__version__, "pointillist": __version__}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    save_file(network.state_dict(), temporary, card)
    temporary.replace(path)
    return Trained(network, sha256, accuracy, path)


def load(path: Path, num_classes: int) -> Trained:
    """Read a stored network; ValueError when it is damaged: weights that do not fit, or do not have the name's hash."""
    network = FeatureNetwork(num_classes)
    try:
        with safe_open(path, "pt") as file:
            network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 not a dict
            accuracy = float(file.metadata()["accuracy"])
    except (SafetensorError, RuntimeError, KeyError, TypeError) as e:
        raise ValueError(
            f"feature network {path} is damaged ({str(e).splitlines()[0]}); delete it to retrain"
        ) from None
    sha256 = weights_hash(network)
    if sha256[:8] != path.stem[-8:]:
        raise ValueError(
            f"feature network {path} holds weights {sha256[:8]}, not those of its name; delete it to retrain"
        )
    return Trained(network.eval(), sha256, accuracy, path)
