"""The scores that were asked for: what they need of which network, and their numbers under the names they may bear."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pointillist.configs.options import choices, find, to_dict
from pointillist.evaluation.features import BANK, CLASSES, MOMENTS, Features, Value
from pointillist.evaluation.frechet import Gaussian, Statistics
from pointillist.evaluation.measure import Measured
from pointillist.evaluation.networks.options import Weights
from pointillist.evaluation.reference import Compared
from pointillist.evaluation.tally import Wanted

SEED = 2020  # of the bootstrap


@dataclass(frozen=True)
class Score:
    """A file of evaluation/scores and its options."""

    name: str
    module: ModuleType
    options: Any

    @property
    def network(self) -> str:
        return self.module.NETWORK

    def check(self, samples: int, reference: int | None) -> None:
        """Raises ValueError where these options cannot be had of so many images."""
        if samples < 2:
            raise ValueError(f"a distribution is scored, and needs 2 images or more; there is {samples}")
        if hasattr(self.module, "check"):
            self.module.check(self.options, samples, reference)


def open_networks(names: set[str], files: Weights, device: torch.device) -> dict[str, Any]:
    """The networks of evaluation/networks that the scores look through, by name.

    Raises FileNotFoundError, and ValueError for weights that are not the published ones unless unverified=true.
    """
    out = {}
    for name in sorted(names):
        module = import_module(f"pointillist.evaluation.networks.{name}")
        try:
            out[name] = module.open_network(files.weights_of(name), device)
        except FileNotFoundError as e:
            raise FileNotFoundError(f"{e}; scores=offline reference=emoji needs none, but is another score") from None
        require_published(name, out[name], files.unverified)
    return out


def require_published(name: str, network: Any, unverified: bool) -> None:
    """Raises ValueError for weights that are not the published ones, unless that was asked for."""
    if not network.verified and not unverified:
        raise ValueError(
            f"the {name} weights have sha256 {network.sha256[:8]}..., which is not the published file; name that with "
            f"{name}_weights=FILE, or take unverified=true: the numbers then bear other names, being others"
        )


def choose(names: str, options: Any) -> list[Score]:
    """From "fid,kid": the files with their parts of `options`. Raises ValueError with the choices."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise ValueError(f"scores= names nothing; choose from {', '.join(choices('evaluation/scores'))}")
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"scores={names} names one twice")
    return [Score(name, find("evaluation/scores", name), getattr(options, name)) for name in wanted]


def wanted(scores: list[Score], side: str, count: int, bootstrap: int = 0, dtype: str = "float16") -> Wanted:
    """What the files ask for on one side ("SAMPLES" | "REFERENCE") of `count` images, in one pass."""
    layers: dict[str, dict[str, set[str]]] = {}
    splits = np.zeros(0, np.int64)
    for score in scores:
        for layer, kind in getattr(score.module, side).items():
            kinds = layers.setdefault(score.network, {}).setdefault(layer, set())
            kinds.add(kind)
            if kind == MOMENTS and bootstrap and side == "SAMPLES":
                kinds.add(BANK)
            if kind == CLASSES:
                splits = score.module.split_of(score.options, count)
    return Wanted(layers, splits, dtype=dtype)


def numbers(
    scores: list[Score], networks: dict[str, Any], samples: Measured, reference: Compared | None, bootstrap: int = 0
) -> dict[str, dict]:
    """Name -> {"value", "width", "how"}; a number of a network that is not the published one bears another name."""
    out = {}
    for score in scores:
        seen, against = samples.seen_by(score.network), reference.seen_by(score.network) if reference else None
        found = score.module.score(seen, against, score.options)
        if bootstrap and MOMENTS in score.module.SAMPLES.values():
            found = with_width(found, score, seen, against, bootstrap)
        for name, value in found.items():
            entry = {"value": value.value}
            entry |= {"width": value.width, "how": value.how} if value.width is not None else {}
            out[public_name(score, name, networks[score.network])] = entry
    return out


def public_name(score: Score, name: str, network: Any) -> str:
    """The published name only where the network's weights are the published ones."""
    if network.verified:
        return name
    return f"{score.module.UNVERIFIED[name]}({score.network}-{network.sha256[:8]})"


def protocol(scores: list[Score], networks: dict[str, Any]) -> dict:
    """The part of the protocol card that says how numbers come of images."""
    cards = {score.network: networks[score.network].card for score in scores}
    used = {name: {k: v for k, v in card.items() if k != "libraries"} for name, card in cards.items()}
    return {"networks": used, "scores": {score.name: to_dict(score.options) for score in scores}}


# ----------------------------------------------------------------------------------------------------------- bootstrap


@dataclass(frozen=True, eq=False)
class Resampled:
    """The same images drawn anew with replacement: `weight` int64 [N] counts how often each came."""

    features: Features
    weight: np.ndarray

    @property
    def count(self) -> int:
        return self.features.count

    def moments(self, layer: str) -> Gaussian:
        bank, total = self.features.bank(layer), None
        for start in range(0, len(bank), 4096):
            x = torch.from_numpy(np.asarray(bank[start : start + 4096], np.float64))
            w = torch.from_numpy(self.weight[start : start + 4096]).double()[:, None]
            part = Statistics(int(w.sum()), (w * x).sum(0), (w * x).T @ x)
            total = part if total is None else total + part
        return total.gaussian


def with_width(
    found: dict[str, Value], score: Score, samples: Features, reference: Features | None, resamples: int
) -> dict[str, Value]:
    """The standard deviation over bootstrap resamples beside each value. Never their mean: resampled sets repeat
    images, which raises a Frechet distance by more than the width itself."""
    rng = np.random.default_rng(SEED)
    n = samples.count
    drawn = [
        score.module.score(Resampled(samples, rng.multinomial(n, [1 / n] * n)), reference, score.options)
        for _ in range(resamples)
    ]
    how = f"standard deviation of {resamples} bootstrap resamples"
    return {k: Value(v.value, float(np.std([d[k].value for d in drawn], ddof=1)), how) for k, v in found.items()}
