"""Seconds and memory of scores over made-up features: this project, torch-fidelity, plain numpy with scipy's sqrtm; and
of the Inception network at random weights.

    python benchmarks/scores.py [samples=50000] [reference=10000] [dim=2048] [images=128] [limit=0]

Each contender runs alone in a fresh process, so its peak memory is its own (0.4 GB of it are imports). `limit` gives
torch-fidelity's precision and recall fewer samples, as they may take very long, and scales its seconds by the number of
distances. Run it alone: one competing process slows torch on two cores 5 to 30 times.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from measure import alone, limits, peak_memory, timed
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from tqdm import tqdm

from pointillist.configs.options import load, parse, run
from pointillist.evaluation.frechet import Gaussian, Statistics, frechet
from pointillist.evaluation.networks.inception import Extractor, rearrange
from pointillist.evaluation.scores import density_coverage, precision_recall
from pointillist.evaluation.tally import TOGETHER

FACTORS = 64  # features are noisy rectified mixtures of these, so that neighbours mean something


@dataclass
class Benchmark:
    samples: int = 50_000  # images to score
    reference: int = 10_000  # images behind the reference, for precision and recall
    dim: int = 2048  # width of the features
    batch: int = TOGETHER  # vectors that are added to the sums at once
    images: int = 128  # of 256 pixels, for the network
    limit: int = 0  # samples for torch-fidelity's precision and recall; 0: all


# ---------------------------------------------------------------------------------------------------------- contenders


def ours_fid(folder: Path, options: Benchmark) -> str:
    bank, total = features(folder, "samples"), None
    for begin in range(0, len(bank), options.batch):
        s = Statistics.of(torch.from_numpy(bank[begin : begin + options.batch].copy()))
        total = s if total is None else total + s
    goal = goal_of(folder)
    return f"{frechet(Gaussian(*map(torch.from_numpy, goal)), total.gaussian).distance:.6f}"


def torch_fidelity_fid(folder: Path, options: Benchmark) -> str:
    statistics = fid_features_to_statistics(torch.from_numpy(features(folder, "samples").astype(np.float32)))
    mean, covariance = goal_of(folder)
    goal = {"mu": mean.astype(np.float32), "sigma": covariance}
    return f"{fid_statistics_to_metric(statistics, goal, False)['frechet_inception_distance']:.6f}"


def scipy_fid(folder: Path, options: Benchmark) -> str:
    x, (mean, covariance) = features(folder, "samples").astype(np.float32), goal_of(folder)
    m, s = x.mean(0), np.cov(x, rowvar=False)
    root = sqrtm(s @ covariance)
    return f"{((m - mean) ** 2).sum() + s.trace() + covariance.trace() - 2 * root.trace().real:.6f}"


def ours(part, folder: Path, **chosen: str) -> str:
    sets = [features(folder, name) for name in ("samples", "reference")]
    held = [SimpleNamespace(count=len(x), bank=lambda layer, x=x: x) for x in sets]
    return " ".join(f"{v.value:.6f}" for v in part.score(*held, part.Options(**chosen)).values())


def ours_precision_recall(folder: Path, options: Benchmark) -> str:
    return ours(precision_recall, folder)


def ours_precision_recall_half(folder: Path, options: Benchmark) -> str:
    return ours(precision_recall, folder, precision="adm_fp16")


def ours_density_coverage(folder: Path, options: Benchmark) -> str:
    return ours(density_coverage, folder)


def torch_fidelity_precision_recall(folder: Path, options: Benchmark) -> str:
    x, y = (torch.from_numpy(features(folder, name).astype(np.float32)) for name in ("samples", "reference"))
    x = x[: options.limit or len(x)]
    out = prc_features_to_metric(x, y, prc_neighborhood=3, prc_batch_size=10_000, save_cpu_ram=True, verbose=False)
    return f"{out['precision']:.6f} {out['recall']:.6f}"


def ours_network(folder: Path, options: Benchmark) -> str:
    return seen(rearrange(Extractor(), torch.device("cpu")), options.images)


def torch_fidelity_network(folder: Path, options: Benchmark) -> str:
    return seen(Extractor(), options.images)  # its own class as it comes


@torch.no_grad()
def seen(network: torch.nn.Module, count: int) -> str:
    images = torch.randint(0, 256, (32, 3, 256, 256), dtype=torch.uint8)
    network.features_list = ["2048", "logits_unbiased"]
    network(images)  # the first call prepares its kernels
    seconds = timed(lambda: [network(images) for _ in range(count // 32)])
    return f"{count // 32 * 32 / seconds:.1f} images/s"


CONTENDERS: dict[str, dict[str, Callable[[Path, Benchmark], str]]] = {
    "statistics + FID": {"ours": ours_fid, "torch-fidelity": torch_fidelity_fid, "numpy + sqrtm": scipy_fid},
    "precision, recall": {
        "ours": ours_precision_recall,
        "torch-fidelity": torch_fidelity_precision_recall,
        "ours, adm_fp16": ours_precision_recall_half,
    },
    "density, coverage": {"ours": ours_density_coverage},
    "Inception": {"ours": ours_network, "torch-fidelity": torch_fidelity_network},
}


# ------------------------------------------------------------------------------------------------------------ features


def write_features(folder: Path, name: str, count: int, dim: int, seed: int) -> None:
    """A float16 bank, as evaluation leaves it on disk."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(0).standard_normal((FACTORS, dim), np.float32) / FACTORS**0.5
    bank = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (count, dim))
    for begin in tqdm(range(0, count, 5000), desc=name, leave=False):
        rows = min(5000, count - begin)
        x = rng.standard_normal((rows, FACTORS), np.float32) @ mix + 0.3 * rng.standard_normal((rows, dim), np.float32)
        bank[begin : begin + rows] = np.maximum(x + 0.02 * seed, 0)
    bank.flush()


def features(folder: Path, name: str) -> np.ndarray:
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def goal_of(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the reference: they are given, as in a published reference file."""
    with np.load(folder / "goal.npz") as goal:
        return goal["mu"], goal["sigma"]


def write_goal(folder: Path) -> None:
    goal = Statistics.of(torch.from_numpy(features(folder, "reference").astype(np.float32))).gaussian
    np.savez(folder / "goal.npz", mu=goal.mean.numpy(), sigma=goal.covariance.numpy())


# ---------------------------------------------------------------------------------------------------------------- main


def measure(what: str, name: str, folder: Path, options: Benchmark) -> tuple[float, float, str]:
    """(seconds, peak GB, value) of one contender in this process."""
    begin = time.perf_counter()
    value = CONTENDERS[what][name](folder, options)
    seconds = time.perf_counter() - begin
    if options.limit and name == "torch-fidelity" and what.startswith("precision"):
        seconds *= distances(options.samples, options.reference) / distances(options.limit, options.reference)
        value += f" (of {options.limit}; seconds scaled)"
    return seconds, peak_memory(), value


def distances(n: int, m: int) -> int:
    """How many torch-fidelity computes."""
    return n * n + m * m + 2 * n * m


def main(argv: list[str]) -> None:
    command = parse(argv, __doc__, Benchmark, target=False)
    options = load(Benchmark, None, command.words)
    if options.limit > options.samples:
        raise ValueError(f"limit={options.limit} is more than samples={options.samples}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone(write_features, folder, "samples", options.samples, options.dim, 1)
        alone(write_features, folder, "reference", options.reference, options.dim, 2)
        alone(write_goal, folder)
        print(alone(limits))
        print(f"{options.samples} samples, {options.reference} reference, {options.dim} features")
        for what, contenders in CONTENDERS.items():
            first = 0.0
            for contender in contenders:
                seconds, gigabytes, value = alone(measure, what, contender, folder, options)
                first = first or seconds
                print(f"{what:<18} {contender:<15} {seconds:8.1f} s {seconds / first:7.2f} x ours "
                      f"{gigabytes:6.2f} GB   {value}", flush=True)  # fmt: skip


if __name__ == "__main__":
    run(main)
