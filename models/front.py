"""Front: codes of several rows in one pass (ZipAR, He et al., arXiv 2412.04062), each seeing what has been decoded.

Approximate: a code is asked for before all that comes before it in the trained order is known. Places that were not fed
yet are hidden, and a place that reads a code that is not known reads a stand-in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pointillist.models.dist import Dist


@dataclass
class Front:
    """A pass over slots [B, m, 1] of units that predict one code at each place.

    fed       [L] bool: places whose keys are in the cache; a pass adds its own
    stand_in  slots [B, n, 1] and codes [B, n, 1, ...] that are read as if they were decoded
    """

    fed: Tensor
    stand_in: tuple[Tensor, Tensor]
    levels, depth = 1, (0,)  # all of them have behind them what is decoded before the pass

    def query(self, model: Any, state: Any, slots: Tensor, draft: Tensor | None) -> Dist:
        """The laws of the slots, given what has been decoded; see Generator.query."""
        assert draft is None and slots.shape[2] == 1, "a front is of single codes, none of them drafted"
        state.put(*(x.repeat(len(slots) // len(x), *[1] * (x.ndim - 1)) for x in self.stand_in))  # for both streams
        state.slots = slots
        places = torch.take_along_dim(state.index.place_of, slots.flatten(1), dim=1)  # [B, m]
        if not self.fed[0]:  # a condition's prefix predicts nothing
            prefix = torch.arange(model.plan.prefix, device=places.device).expand(len(places), -1)
            places = torch.cat([prefix, places], dim=1)
        index, layout = state.index.window(places), model.layout
        self.fed[places[0]] = True
        until = int(self.fed.nonzero()[-1]) + 1
        mask = model.visible(state.cond, places, until) & self.fed[:until]
        x = model.embed(state.codes, state.cond, index)
        x = model.transformer.decode(x, layout.rope(index.at), mask, state.caches, places, until, state.modulations)
        state.fed, state.hidden = places.shape[1], x[:, -slots.shape[1] :, None]
        return model.head.dist(state.hidden)
