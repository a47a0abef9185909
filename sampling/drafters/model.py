"""model: a second, cheaper law drafts (Leviathan et al., arXiv 2211.17192): sample.py's draft=RUN.

It runs ahead one group at a time and follows what is committed. Its draws use the noise of ancestral decoding, so under
rule exact it is right wherever both laws win the same race. It must decode the same codes in the same order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointillist.models.dist import Categorical, Dist
from pointillist.models.linear import sizes_of
from pointillist.sampling.drafts import Draws, Guess, Setting, Verdict, at_nodes, padded, probabilities, window, without
from pointillist.sampling.noise import Noise


@dataclass
class Options:
    name: str = "model"


def needs_laws(options: Options) -> bool:
    return False


def check(law: Any, options: Options) -> None:
    """Raises ValueError where there is no draft, or it does not decode the same codes in the same order."""
    if (draft := getattr(law, "draft", None)) is None:
        raise ValueError("sampler.drafter=model drafts with another run of the same tokenizer; name it: draft=RUN")
    one = torch.zeros(1, dtype=torch.long, device=next(iter(law.parameters())).device)
    mine, theirs = (padded(each.groups(each.start(one, one, Noise(0)))) for each in (law, draft))
    if mine.shape != theirs.shape or not torch.equal(mine, theirs):
        raise ValueError("the draft's unit decodes other groups of codes, or in another order; use one that agrees")


class Drafter:
    """Its state has a row for every way of every image, image * ways + way, and stands one group behind the target:
    the newest code has not been read yet."""

    def __init__(self, options: Options, setting: Setting) -> None:
        check(setting.law, options)
        self.setting, self.law = setting, setting.law.draft
        self.state = self.law.start(*(self._each(x) for x in (setting.cond, setting.images)), setting.noise)
        self.length = torch.zeros_like(self._each(setting.images))
        self.newest: Tensor | None = None  # [B * ways, 1, g, ...] codes of the group before the next
        mine, theirs = (sum(sizes_of(law).values()) for law in (self.law, setting.law))
        setting.trace.drafter["weight"] = mine / theirs

    def propose(self, length: Tensor, ahead: int, draws: Draws) -> Guess:
        """A guess of the `ahead` groups after length [B]."""
        setting, total = self.setting, self.setting.groups.shape[1] - 1
        groups, start = self._each(setting.groups), self._each(length)
        draws = draws.of(self._each(torch.arange(len(length), device=length.device)))
        begun = (draws.number > 0).long()  # of others nothing has been committed: there is no newest code
        able = self.law.can_draft(self.state)
        none = window(groups, start, 0)  # [B * ways, 0, g]
        codes = [none.new_zeros(*none.shape, *self.law.spec.shape[1:])]
        laws = []
        for d in range(ahead if bool(able.any()) else 0):
            slots = read = window(groups, start + d, 1)
            asked = torch.zeros_like(start)[:, None]  # [B * ways, 1] which group of those read is guessed
            if d == 0 and self.newest is not None:
                read, asked = window(groups, start - begun, 2), begun[:, None]
            dist = setting.trace.draft(self.law, self.state, read, self.newest if read.shape[1] > 1 else None)
            q = at_nodes(probabilities(dist), asked) if setting.with_laws or setting.ways > 1 else None
            if d == 0 and setting.ways > 1:
                x, q = self._part(q, slots, draws)
            else:
                x = at_nodes(draws.fixed(dist, read), asked)
            codes.append(x)
            laws.append(q)
            self.law.rewind(self.state, (start + d + 1).clamp_max(total), slots, x)
        guess = torch.cat(codes, dim=1).unflatten(0, (-1, setting.ways))
        with_laws = torch.cat(laws, 1).unflatten(0, (-1, setting.ways)) if laws and setting.with_laws else None
        return Guess(guess, with_laws, None if bool(able.all()) else able[:: setting.ways])

    def observe(
        self, dist: Dist, guess: Guess, verdict: Verdict, slots: Tensor, draws: Draws, keep: Tensor, features: Tensor
    ) -> None:
        """Follow the target, which committed keep [B] groups of the verdict's codes for slots [B, m, g]."""
        rows = torch.arange(len(slots), device=slots.device) * self.setting.ways + verdict.way
        self.state = self.law.select(self.state, self._each(rows))
        codes, slots, keep = self._each(verdict.codes), self._each(slots), self._each(keep)
        self.length = self.length + keep
        self.law.rewind(self.state, self.length - 1, slots, codes)
        self.law.learn(self.state, slots, features.repeat_interleave(self.setting.ways, 0))
        self.newest = at_nodes(codes, (keep - 1).clamp_min(0)[:, None])

    def select(self, rows: Tensor) -> None:
        """Go on with some of the images."""
        rows = self._ways(rows)
        self.state = self.law.select(self.state, rows)
        self.length, self.newest = self.length[rows], self.newest[rows]

    def refill(self, rows: Tensor) -> None:
        """The setting has other images in rows [b] now, which are in their first pass."""
        setting = self.setting
        fresh = self.law.start(*(self._each(x[rows]) for x in (setting.cond, setting.images)), setting.noise)
        self.law.refill(self.state, self._ways(rows), fresh)
        self.length[self._ways(rows)] = 0

    def _part(self, q: Tensor, slots: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The ways' first codes [B * ways, 1, 1], drawn without replacement, and the laws they were drawn from."""
        law, codes, laws = q.unflatten(0, (-1, self.setting.ways))[:, 0], [], []
        one = slice(None, None, self.setting.ways)
        for _ in range(self.setting.ways):
            x = Draws(draws.noise, draws.images[one], draws.number[one]).fixed(Categorical(law.log()), slots[one])
            codes.append(x)
            laws.append(law)
            law = without(law, x)
        return torch.stack(codes, 1).flatten(0, 1), torch.stack(laws, 1).flatten(0, 1)

    def _each(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.setting.ways, 0)

    def _ways(self, rows: Tensor) -> Tensor:
        """Rows of the state that belong to images rows [b]."""
        return (rows[:, None] * self.setting.ways + torch.arange(self.setting.ways, device=rows.device)).flatten()
