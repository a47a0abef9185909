"""Relaxed rules: accept more drafts than the target's law allows, and say what that spends.

A rule gives the probability f(x) of accepting x and the law G of what replaces a rejected draft. What comes out has
the law o = q f + (1 - <q, f>) G in closed form, so its total variation distance to the target p is known for every
slot; summed over an image it bounds the distance of the images' laws in expectation, by coupling slot after slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pointillist.models.dist import Categorical, Dist
from pointillist.sampling.coupling import emitted, residual, total_variation
from pointillist.sampling.drafts import Draws, Guess, Verdict, like, probabilities, reached

# (p [n, V], q [n, V], drafts [n, S], index of the guess [n]) -> f(x) [n, S]
Accept = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
# (p [n, V], q [n, V], rejected drafts [n]) -> G [n, V] given which draft was rejected
Replace = Callable[[Tensor, Tensor, Tensor], Tensor]
CELLS = 2**24  # numbers held at a time


def check(generator: Any, options: Any) -> None:
    """For rules that know which codes are near: raises ValueError where there is not one codebook to tell."""
    if len(generator.spec.vocab) != 1 or getattr(generator, "codebook", True) is None:
        raise ValueError(f"sampler.rule={options.name} needs one codebook, in which codes lie near each other; use mrs")


def verify(
    accept: Accept, replace: Replace | None, by_draft: bool, dist: Dist, guess: Guess, slots: Tensor, draws: Draws
) -> Verdict:
    """The verdict on a guess of one way; replace None: the best residual, norm([p - q f]+).

    by_draft: what replaces a draft depends on which it was, so the law that comes out is summed draft by draft.
    """
    laws = probabilities(dist)
    p, q, x = laws[:, :-1], guess.laws[:, 0], guess.codes[:, 0]
    index = like(torch.arange(guess.length, device=x.device)[None, :, None], x).expand_as(x)
    f = accept(_rows(p), _rows(q), x.reshape(-1, 1), index.flatten()).view_as(x)
    real = like(slots[:, :-1] >= 0, x)
    kept = draws.below("accept", f, slots[:, :-1]) | ~real
    tested = (like(reached(kept.flatten(2).all(-1))[..., None], x) & real).expand_as(x)
    p, q = p[tested], q[tested]
    f = _of_support(accept, p, q, index[tested])
    if by_draft:
        other, out = replace(p, q, x[tested]), _emitted(p, q, f, replace)
    else:
        other = residual(p, q * f) if replace is None else replace(p, q, x[tested])
        out = emitted(q, f, other)
    spent, lost = total_variation(p, out), tested & ~kept
    codes = torch.where(lost, draws.fresh("residual", other[~kept[tested]], slots[:, :-1], lost), x)
    last = draws.fixed(Categorical(laws[:, -1:].log()), slots[:, -1:])
    variation = torch.zeros(x.shape, dtype=p.dtype, device=p.device).masked_scatter(tested, spent)
    return Verdict(torch.zeros_like(draws.images), torch.cat([codes, last], dim=1), kept, variation)


def _rows(laws: Tensor) -> Tensor:
    return laws.flatten(0, -2)


def _of_support(accept: Accept, p: Tensor, q: Tensor, index: Tensor) -> Tensor:
    """f [n, V] of laws p, q [n, V], 0 for codes that q does not draft."""
    drafts = q.topk(int((q > 0).sum(-1).max()) if len(q) else 0).indices
    return torch.zeros_like(q).scatter(1, drafts, accept(p, q, drafts, index))


def _emitted(p: Tensor, q: Tensor, f: Tensor, replace: Replace) -> Tensor:
    """[n, V]: sum over drafts x of q(x) (f(x) at x, else G given that x was rejected)."""
    out = q * f
    rejected = q * (1 - f)
    for row in range(len(p)):
        drafts = rejected[row].nonzero()[:, 0]
        for part in drafts.split(max(CELLS // p.shape[1], 1)):
            others = replace(p[row].expand(len(part), -1), q[row].expand(len(part), -1), part)
            out[row] += rejected[row, part] @ others
    return out


def chunks(tokens: Tensor, each: int) -> tuple[Tensor, ...]:
    """Drafts [n, S] in parts [n, s] for which n * s * each numbers can be held."""
    return tokens.split(max(CELLS // max(len(tokens) * each, 1), 1), dim=1)


def draft_probability(q: Tensor, drafts: Tensor) -> Tensor:
    """q(x) [n, S], 1 where it is 0: such drafts do not occur."""
    chosen = q.gather(1, drafts)
    return torch.where(chosen > 0, chosen, 1)
