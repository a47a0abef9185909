"""task=eagle: train a draft head on the features of a frozen generator, over the codes that it learned from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pointillist.configs.options import find, option, to_dict
from pointillist.data.loader import spread
from pointillist.models.eagle import Eagle, fits
from pointillist.models.eagle import Options as EagleOptions
from pointillist.sampling.noise import Noise
from pointillist.training import checkpoint
from pointillist.training.load import fitting, load_generator, load_tokenizer, tokenizer_of
from pointillist.training.options import TrainOptions
from pointillist.training.pictures import save_grid
from pointillist.training.tasks import generator

DEPTHS = 4  # guesses in a row whose acceptance is measured,
MEASURED = 128  # on so many held-out images at most


@dataclass
class Options(TrainOptions):
    task: Literal["tokenizer", "generator", "eagle"] = "eagle"
    target: str = option("", "run folder of the frozen generator that the head is to draft for")
    tokenizer: str = option("", "its tokenizer's run, if it is not where it was")
    codes: str = option("", "folder of the code cache; default: codes/ beside the tokenizer's checkpoints")
    model: EagleOptions = option(EagleOptions(), "the draft head")
    checkpointing: int = option(0, "k: every k-th block is computed again in the backward pass, for memory; 0: none")


class Task(generator.Task):
    """Codes come as for a generator; the tokenizer and the classes are the target's."""

    score = "loss"

    def __init__(self, options: Options, device: torch.device) -> None:
        if not options.target:
            raise ValueError("a draft head needs target=RUN, the folder of a trained generator")
        folder = checkpoint.locate(options.target)
        target, self.target_config = load_generator(folder, device)
        check_target(target, self.target_config, options)
        found = tokenizer_of(self.target_config, folder, options.tokenizer)
        self.options, self.device = replace(options, tokenizer=found), device
        self.tokenizer, self.tokenizer_config = load_tokenizer(found, device)
        self.images = {s: find("data", options.data.name).open_images(options.data, s) for s in ("train", "heldout")}
        check_classes(list(self.images["train"].classes), self.target_config)
        self.spec, self.model = target.spec, Eagle(options.model, target).to(device)
        self.model.transformer.checkpointing = options.checkpointing

    def config(self) -> dict:
        """What config.json must say to rebuild the head, find its target and know which codes are meant."""
        target = self.target_config
        shared = {k: target[k] for k in ("unit", "spec", "classes", "class_counts", "image_size", "tokenizer")}
        return {
            "kind": "eagle",
            "model": to_dict(self.options.model),
            "target": {"path": self.options.target, "sha256": target["sha256"], "step": target["step"]},
            **shared,
            "data": {**to_dict(self.options.data), "fingerprint": self.images["train"].fingerprint},
        }

    def batch(self, step: int) -> dict[str, Tensor]:
        batch = self.train.batch(step, self.options.batch_size, self.options.seed)
        return {"codes": batch["codes"].to(self.device), "cond": batch["labels"].to(self.device)}

    @torch.no_grad()
    def evaluate(self, model: Eagle) -> dict[str, float]:
        """The loss on held-out images and as many training images, and the mean acceptance of guesses by depth."""
        losses = {"loss": self._mean(model, self.heldout), "train_loss": self._mean(model, self.train)}
        by_depth = [float(x[~x.isnan()].mean()) for x in self._acceptance(model)]
        return losses | {f"accepted_{depth}": x for depth, x in enumerate(by_depth, 1)}

    def _acceptance(self, model: Eagle, null: bool = False) -> Tensor:
        """[depths, N] of held-out images, mean; null: without their classes."""
        rows = spread(len(self.heldout), min(len(self.heldout), MEASURED))
        cond = torch.as_tensor(self.heldout.labels[rows], device=self.device)
        codes = self.heldout.rows(rows).to(self.device)
        return acceptance(model, codes, model.null(cond) if null else cond).mean(1)

    @torch.no_grad()
    def picture(self, model: Eagle, path: Path) -> None:
        """Maps of the acceptance over the codes, black 0 and white 1: given the class, and without it."""
        grid = self.spec.grids[0] if len(self.spec.grids) == 1 and len(self.spec.grids[0]) == 2 else None
        grid = grid or (1, sum(map(prod, self.spec.grids)))
        both = torch.stack([self._acceptance(model, null) for null in (False, True)], dim=1)  # [depths, 2, N]
        grey = (both.nan_to_num() * 255).round().to(torch.uint8).cpu().unflatten(-1, grid)
        rows = [
            (f"guess {depth}: {float(given[~given.isnan()].mean()):.3f}", maps[:, None].expand(-1, 3, -1, -1))
            for depth, (given, maps) in enumerate(zip(both[:, 0], grey, strict=True), 1)
        ]
        save_grid(rows, path, title="accepted share by slot; with class, without", pixels=128)


def check_classes(found: list[str], target: dict) -> None:
    """Raises ValueError where the data's classes are not the target's. Published checkpoints number ImageNet's classes
    in the order of their folders (n01440764, ...) and know no folder: as many must do."""
    known = target["classes"]
    if found == known or ("original" in target and len(found) == len(known)):
        return
    first = next(((a, b) for a, b in zip(known, found, strict=False) if a != b), None)
    told = f"the first that differs is {first[0]}, there {first[1]}" if first else "the first ones agree"
    raise ValueError(f"the target knows {len(known)} classes, the data have {len(found)}; {told}")


def check_target(target: Any, config: dict, options: Options) -> None:
    """Raises ValueError, naming what fits, for a target that no head can draft for, or for views of another size."""
    if isinstance(target, Eagle):
        raise ValueError(f"{options.target} holds a draft head; a generator is needed here")
    if target.captions is not None:
        raise ValueError(f"{options.target} draws captions; a draft head is trained on a generator of classes")
    if not fits(target.plan, target.spec):
        raise ValueError(
            f"a draft head needs one place and one discrete code a pass, which unit={target.unit.name} does not have; "
            f"units that fit these codes: {', '.join(fitting(target.spec, drafted=True)) or 'none'}"
        )
    if config["image_size"] != options.views.size:
        raise ValueError(
            f"the target was trained at {config['image_size']} pixels, views.size is {options.views.size}; "
            "make them equal"
        )


def acceptance(model: Eagle, codes: Tensor, cond: Tensor, depths: int = DEPTHS) -> Tensor:
    """[depths, B, N] by slot: sum_x min(p, q), the share of guesses that rejection sampling keeps, of guess 1, 2, ..
    in a row after what was committed; a product over books. The codes before it, of chained books too, are the true
    ones. NaN where there is no such guess.
    """
    true, images = model.true_features(codes, cond), torch.arange(len(codes), device=codes.device)
    p, state = model.law(true[:, 1:], codes).double().exp(), model.start(cond, images, Noise(0))
    slots, rows, last = torch.stack(model.groups(state), 1), images[:, None, None], codes.shape[1]
    found = torch.full(
        (min(depths, last - 1), *codes.shape[:2]), float("nan"), dtype=torch.float64, device=codes.device
    )
    for begin in range(1, last):
        asked, before = slots[:, begin - 1 : begin + 1], slots[:, begin - 1 : begin]
        draft = codes[rows, before]
        model.rewind(state, torch.full_like(cond, begin - 1), before, draft)
        model.learn(state, before, true[:, begin - 1 : begin, None])
        for d in range(min(depths, last - begin)):
            model.query(state, asked, draft)
            slot, place = slots[:, begin + d : begin + d + 1], begin + d
            q = model.target.head(state.features[:, place, None], codes[rows, slot][:, :, 0]).double().softmax(-1)
            overlap = torch.minimum(p[:, place - 1], q[:, 0]).sum(-1)  # [B] or [B, K]
            found[d, images, slot[:, 0, 0]] = overlap if overlap.ndim == 1 else overlap.prod(-1)
            model.rewind(state, torch.full_like(cond, place + 1), slot, codes[rows, slot])
            asked, draft = slots[:, place + 1 : place + 2], None
    return found
