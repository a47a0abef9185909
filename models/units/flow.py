"""next-X with flow matching (xAR, Ren et al., arXiv 2502.20388): continuous codes, a group X at a time.

X is a cell of neighbours, a subsampled lattice, a scale or the whole image. Every place holds the noised code that it
predicts the velocity of; a place sees its own group and those before. In training each group has a noise level of its
own, so that the context is noisy too (noisy context learning); in sampling the context is clean, level 0. Class and
level act through AdaLN. For X = scale the groups are the codes averaged to coarser grids, coarse to fine; only the
last, the codes themselves, is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pointillist import CodeSpec
from pointillist.models import generator
from pointillist.models.dist import Flow, at_least_fp32
from pointillist.models.generator import Pattern, State
from pointillist.models.heads import TimeEmbedding
from pointillist.models.plan import Misfit, Plan, plane, positions
from pointillist.models.transformer import Modulations
from pointillist.models.units import cell, scale, subsample

SAMPLING = {"heun"}  # options that may change after training


@dataclass
class Options:
    name: str = "flow"
    group: Literal["cell", "subsample", "scale", "image"] = "cell"
    size: int = 4  # side of a cell in codes, or lattices along each side of a subsample
    sides: list[int] = field(default_factory=lambda: [1, 2, 4])  # of the coarser grids of X = scale
    heun: bool = False  # second-order steps, twice the evaluations


def plan(spec: CodeSpec, options: Options) -> Plan:
    """One place a code, one step a group. Raises Misfit for discrete codes and ValueError for sizes that do not fit."""
    if spec.vocab:
        raise Misfit(f"unit=flow needs continuous codes, this tokenizer has vocab {spec.vocab}; tokenizer=latent fits")
    height, width = plane(spec, "flow")
    if options.group == "scale":
        pyramid = scale.plan(replace(spec, grids=grids_of(spec, options), vocab=(1,)), scale.Options())
        return replace(pyramid, reads=pyramid.predicts)
    if options.group == "image":
        slots = torch.arange(height * width)[None]
    else:
        module = {"cell": cell, "subsample": subsample}[options.group]
        slots = torch.stack(module.plan(spec, module.Options(size=options.size)).groups)
    step, slots = torch.arange(len(slots)).repeat_interleave(slots.shape[1]), slots.flatten()
    return Plan(slots[:, None], slots[:, None], slots, positions(spec), step)


def grids_of(spec: CodeSpec, options: Options) -> tuple[tuple[int, ...], ...]:
    """The grids whose codes are predicted: the tokenizer's, for X = scale after coarser square ones."""
    if options.group != "scale":
        return spec.grids
    sides, edge = options.sides, min(spec.grids[0])
    if not sides or sorted(set(sides)) != list(sides) or not 1 <= sides[0] <= sides[-1] < edge:
        raise ValueError(f"unit.sides must rise from at least 1 and stay below {edge}, got {sides}")
    return (*((side, side) for side in sides), *spec.grids)


class Generator(generator.Generator):
    modulated = True
    joint = True
    windows = False

    def __init__(self, options: generator.Options, spec: CodeSpec, plan: Plan, num_classes: int, unit: Options) -> None:
        grids = grids_of(spec, unit)
        super().__init__(options, replace(spec, grids=grids), plan, num_classes, unit)
        self.spec, self.grids, dim = spec, grids, options.shape().dim
        self.time, self.modulate = TimeEmbedding(dim), nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.position = nn.Embedding(plan.num_codes, dim)
        nn.init.normal_(self.position.weight, std=0.02)
        for layer in (self.modulate[1], self.head):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def new_head(self, dim: int) -> nn.Module:
        return nn.Linear(dim, self.spec.channels)

    def targets(self, codes: Tensor) -> Tensor:
        """Codes [B, N, C] -> what the groups hold, [B, L, C]: for X = scale the averages come first."""
        image = codes.movedim(1, -1).unflatten(-1, self.grids[-1])  # [B, C, H, W]
        means = [F.adaptive_avg_pool2d(image, grid).flatten(2).movedim(1, -1) for grid in self.grids[:-1]]
        return torch.cat([*means, codes], dim=1)

    def forward(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Velocities [B, L, C] by slot of noised codes [B, L, C] at levels t [B, S] of the S groups; None = clean."""
        t = torch.zeros(len(codes), len(self.plan.groups), device=codes.device) if t is None else t
        slots, layout = self.layout.reads[:, 0], self.layout
        x, modulations = self.embed(codes[:, slots], slots, cond, t, layout.step)
        x = self.transformer(self.embedding_drop(x), layout.rope(layout.at[None]), layout.attend(x.device), modulations)
        return self.head(x)[:, layout.place_of]

    def embed(self, x: Tensor, slots: Tensor, cond: Tensor, t: Tensor, group: Tensor) -> tuple[Tensor, Modulations]:
        """Codes x [B, W, C] of slots [W], levels t [B, S] and the column of t that each place has, group [W]
        -> [B, W, D] and the modulation [B, W, 6, D] of all blocks, which is computed once a group."""
        modulation = self.modulate(self.class_embedding(cond)[:, None] + self.time(t)).unflatten(-1, (6, -1))
        return self.read(x) + self.position(slots), [modulation[:, group]] * self.transformer.shape.depth + [None]

    def loss(self, codes: Tensor, cond: Tensor, order: Tensor | None = None, progress: float = 1) -> dict[str, Tensor]:
        """Mean squared error of the velocities; a level t ~ sigmoid(N(0, 1)) for every image and group."""
        codes, step_of = self.targets(codes), self.layout.step[self.layout.place_of]
        t, eps = torch.randn(len(codes), len(self.plan.groups), device=codes.device).sigmoid(), torch.randn_like(codes)
        v = self(torch.lerp(codes, eps, t[:, step_of, None]), self.drop(cond), None, t)
        return {"loss": (at_least_fp32(v) - (eps - codes)).square().mean()}

    def query(self, state: State, slots: Tensor, draft: Tensor | None = None, pattern: Pattern | None = None) -> Flow:
        """The law of the next group; drawing from it runs the network once or twice a step."""
        assert draft is None and slots.shape[1] == 1, "flows are not verified in windows"
        state.slots, state.fed = slots, slots.shape[2]
        velocity = GroupVelocity(self, state, state.longest)
        return Flow(velocity, self.spec.channels, self.options.flow_steps, self.unit.heun)

    def finish(self, state: State) -> Tensor:
        return state.codes[:, -1 - self.spec.length : -1]


class GroupVelocity:
    """velocity(x [B, 1, g, C], t) of group `step`: the first evaluation also feeds the group before, now clean, whose
    keys replace those of its noised self in the cache."""

    def __init__(self, model: Generator, state: State, step: int) -> None:
        self.model, self.state = model, state
        starts = model.plan.starts.tolist()
        self.first, self.until, self.before = starts[step], starts[step + 1], starts[max(step - 1, 0)]

    def __call__(self, x: Tensor, t: float) -> Tensor:
        model, state, device = self.model, self.state, x.device
        places = torch.arange(self.before, self.until, device=device)  # the context is fed once
        slots, layout = model.layout.reads[places, 0], model.layout
        group = (places >= self.first).long()
        values = torch.cat([state.codes[:, slots[group == 0]], x[:, 0]], dim=1)
        levels = torch.tensor([[0.0, t]], device=device).expand(len(x), -1)
        embedded, modulations = model.embed(values, slots, state.cond, levels, group)
        self.before = self.first
        y = model.transformer.decode(
            embedded,
            layout.rope(layout.at[places][None]),
            layout.mask[None, places, : self.until],
            state.caches,
            places[None],
            self.until,
            modulations,
        )
        return model.head(y[:, -x.shape[2] :])[:, None].to(x.dtype)
