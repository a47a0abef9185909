"""jacobi: the guess is what the last pass drew, given its own guesses (speculative Jacobi decoding).

What a pass draws behind the first rejected guess becomes the next guess; the coupling says how it depends on the old:
redraw   afresh from the new law (SJD, Teng et al., arXiv 2410.01699)
maximal  the old guess by modified rejection, so that it stays where the laws agree (SCD-MC, SJD-PAC)
gumbel   argmax(log p + g) with the noise of ancestral decoding, so that it stays while p changes little (SCD-GS)
All of them leave each guess with the law of the last pass, which is declared to the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pointillist.models.dist import Categorical, Dist
from pointillist.sampling.drafts import Draws, Guess, Setting, Verdict, at_nodes, like, probabilities, window, without
from pointillist.sampling.first_guesses import FirstGuesses, recycled
from pointillist.sampling.rules.mrs import replaced, stays


@dataclass
class Options:
    name: str = "jacobi"
    coupling: Literal["redraw", "maximal", "gumbel"] = "gumbel"  # of a guess with the one before
    init: Literal["random", "left", "above", "resample"] = "random"  # first guess of a slot; resample = the last law's


def needs_laws(options: Options) -> bool:
    return options.coupling != "gumbel" or options.init == "resample"


class Drafter:
    """codes [B, M, g, ...] and laws [B, M, g, ..., V] are what the last pass drew for its M groups, of which the first
    kept [B] were then committed."""

    def __init__(self, options: Options, setting: Setting) -> None:
        self.options, self.setting = options, setting
        self.first = FirstGuesses(options.init, setting.law, setting.noise, setting.images, setting.groups)
        self.with_laws = setting.with_laws or setting.ways > 1 or needs_laws(options)
        self.codes = self.laws = None
        self.kept = torch.zeros_like(setting.images)

    def propose(self, length: Tensor, ahead: int, draws: Draws) -> Guess:
        """A guess of the `ahead` groups after length [B]."""
        slots = window(self.setting.groups, length, ahead)
        if self.codes is not None:  # what an image in its first pass finds is of its row's image before
            self.kept = torch.where(draws.number > 0, self.kept, self.codes.shape[1])
        left = self.kept if self.codes is None else self.codes.shape[1] - self.kept  # [B] old guesses; 0 at first
        fresh = torch.arange(ahead, device=slots.device) >= left[:, None]
        if self.codes is not None:
            nothing = self.codes.new_zeros(*slots.shape, *self.codes.shape[3:])
            self.first.remember(slots.masked_fill(fresh[..., None], -1), recycled(self.codes, nothing, self.kept))
        codes, laws = self.first(slots, fresh)
        if self.codes is not None:
            if self.options.init == "resample":
                where = like((fresh & (draws.number > 0)[:, None])[..., None], codes).expand_as(codes)
                laws = torch.where(where[..., None], self.laws[:, -1:], laws)
                codes = torch.where(where, self._draw("resample", Categorical(laws.log()), slots, draws, where), codes)
            codes = recycled(self.codes, codes, self.kept)
            laws = recycled(self.laws, laws, self.kept) if self.with_laws else None
        self.first.remember(slots, codes)
        guess = Guess(codes[:, None], laws[:, None] if self.with_laws else None)
        return self._part(guess, slots[:, :1], draws) if self.setting.ways > 1 and ahead else guess

    def observe(
        self, dist: Dist, guess: Guess, verdict: Verdict, slots: Tensor, draws: Draws, keep: Tensor, features: Tensor
    ) -> None:
        """Draw the next guess from the laws of the tree's nodes, of which the way's first keep [B] were committed."""
        if not self.with_laws:
            self.codes = verdict.codes  # the rule has drawn just these
        else:
            nodes = guess.nodes(verdict.way)
            dist = Categorical(at_nodes(dist.logits, nodes))
            self.laws = probabilities(dist)
            ahead = torch.arange(slots.shape[1], device=slots.device) >= keep[:, None]
            self.codes = self._couple(dist, guess, verdict, slots, draws, like(ahead[..., None], self.laws[..., 0]))
        self.first.remember(slots, verdict.codes)
        self.kept = keep

    def _couple(
        self, dist: Categorical, guess: Guess, verdict: Verdict, slots: Tensor, draws: Draws, ahead: Tensor
    ) -> Tensor:
        """Codes [B, M, g, ...] with laws self.laws, as the coupling has it; those that are not ahead do not matter."""
        ahead = ahead.expand_as(verdict.codes)
        if self.options.coupling != "maximal" or not guess.length:
            return self._draw("draft", dist, slots, draws, ahead)
        rows = torch.arange(len(slots), device=slots.device)
        old, q = guess.codes[rows, verdict.way], guess.laws[rows, verdict.way]
        p, inner = self.laws[:, :-1], slots[:, :-1]
        lost = ~stays(p, q, old, inner, draws) & ahead[:, :-1]
        last = self._draw("draft", Categorical(dist.logits[:, -1:]), slots[:, -1:], draws, ahead[:, -1:])
        return torch.cat([replaced(p, q, old, inner, draws, lost), last], dim=1)

    def _draw(self, stream: str, dist: Categorical, slots: Tensor, draws: Draws, where: Tensor) -> Tensor:
        if self.options.coupling == "gumbel":
            return draws.fixed(dist, slots)
        return draws.fresh(stream, dist.logits.double().softmax(-1)[where], slots, where)

    def _part(self, guess: Guess, slots: Tensor, draws: Draws) -> Guess:
        """More ways: other codes for the first group, drawn without replacement; behind it, the same guesses."""
        q, codes, laws = guess.laws[:, 0, :1], [guess.codes[:, 0]], [guess.laws[:, 0]]
        for i in range(1, self.setting.ways):
            q = without(q, codes[-1][:, :1])
            x = self._draw(f"way {i}", Categorical(q.log()), slots, draws, slots >= 0)
            codes.append(torch.cat([x, guess.codes[:, 0, 1:]], dim=1))
            laws.append(torch.cat([q, guess.laws[:, 0, 1:]], dim=1))
        return Guess(torch.stack(codes, 1), torch.stack(laws, 1))

    def select(self, rows: Tensor) -> None:
        """Go on with some of the images."""
        self.first.select(rows)
        self.kept, self.codes = self.kept[rows], self.codes[rows]
        self.laws = None if self.laws is None else self.laws[rows]

    def refill(self, rows: Tensor) -> None:
        """The setting has other images in rows [b] now, which are in their first pass."""
        self.first.refill(rows, self.setting.images, self.setting.groups)
