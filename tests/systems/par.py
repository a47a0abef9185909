"""PAR with 4 and 16 regions. Recorded logits and codes stand in the order of the sequence, ours by slot."""

from __future__ import annotations

from functools import cache
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from pointillist.models.generator import Generator
from pointillist.models.units import par
from pointillist.sampling.laws import target
from tests.golden_files import Golden, close, numbers, relative, same
from tests.replay import Decoded, check_norms, forced, gradients, greedy, guidance_of, interval_of, network

SYSTEMS = ("par", "par_ar16")
INPUTS = (r"forward\.(raster_codes|labels)", r"gen\.labels")


@cache
def model(golden: Golden) -> Generator:
    return network(golden, par.Options(regions=golden.meta["constructor_arguments"]["ar_token_num"]))


def labels_of(golden: Golden, case: str) -> Tensor:
    labels = golden["forward.labels"]
    return model(golden).null(labels) if "_null" in case else labels


# ---------------------------------------------------------------------------------------------------------------- plan


def order(golden: Golden) -> Tensor:
    return model(golden).plan.predicts[:, 0]


def check_order(golden: Golden, case: str) -> None:
    same(order(golden), golden[case])


def check_order_of_codes(golden: Golden, case: str) -> None:
    same(golden["forward.raster_codes"][:, order(golden)], golden[case])


def check_rope(golden: Golden, case: str) -> float:
    """The recorded sequence has one place more for each transition token: those of the last codes, which none reads."""
    generator, regions = model(golden), model(golden).unit.regions
    slots, nowhere = order(golden), torch.tensor([-1])
    every = torch.cat([nowhere, slots[:regions], nowhere.expand(regions - 1), slots[regions:]])
    assert torch.equal(every[: generator.plan.length], generator.plan.at)
    return close(generator.layout.rope(every), golden[case], 1e-5)


def check_mask(golden: Golden, case: str) -> None:
    """Of all places that are fed; those of the last codes, which see all and none sees, are not."""
    length, regions = model(golden).plan.length, model(golden).unit.regions
    every = F.pad(model(golden).plan.mask.long(), (0, regions))
    same(torch.cat([every, every.new_ones(regions, length + regions)]), golden[case])


# ------------------------------------------------------------------------------------------------------------ training


@torch.no_grad()
def check_logits(golden: Golden, case: str) -> float:
    logits = model(golden)(golden["forward.raster_codes"], labels_of(golden, case))
    return close(logits[:, order(golden)], golden[case])


def check_loss(golden: Golden, case: str) -> None:
    relative(model(golden).loss(golden["forward.raster_codes"], labels_of(golden, case))["loss"].detach(), golden[case])


def check_gradients(golden: Golden, case: str) -> None:
    generator, codes, labels = model(golden), golden["forward.raster_codes"], golden["forward.labels"]
    check_norms(golden, case, gradients(generator, lambda: generator.loss(codes, labels)["loss"]))


# ------------------------------------------------------------------------------------------------------------ decoding


def check_decoding(golden: Golden, case: str) -> float:
    return close(forced(model(golden), golden["forward.raster_codes"], golden["forward.labels"]), golden[case])


@cache
def generated(golden: Golden, name: str) -> Decoded:
    law, last = target(model(golden), guidance_of(name)), numbers(name, r"_int(\d+)")
    if not last:
        return greedy(law, golden["gen.labels"])
    return greedy(law, golden["gen.labels"], lambda done: guided_there(model(golden).unit.regions, int(last[0]), done))


def guided_there(regions: int, last: int, done: int) -> bool:
    """Is the pass after `done` codes guided with cfg_interval `last`? The published sampler counts decoded codes anew
    when the parallel passes begin, so that guidance comes back. No interval of shares of the codes says that, and none
    is meant to: the passes are told here one by one."""
    return done <= last + 1 if done < regions else done - regions <= last


def check_generated_logits(golden: Golden, case: str) -> float:
    return close(generated(golden, case.rpartition(".")[0]).logits, golden[case])


def check_generated_codes(golden: Golden, case: str) -> None:
    ours = generated(golden, case.rpartition(".")[0]).codes
    same(ours if case.endswith("_raster") else ours[:, order(golden)], golden[case])


def check_interval(golden: Golden, case: str) -> None:
    """The recorded codes, and where the house's own interval, which ends once, departs from them: only after the first
    pass that the two guide differently."""
    check_generated_codes(golden, case)
    generator, (last,) = model(golden), numbers(case, r"_int(\d+)")
    interval = interval_of(case, generator.spec.length)
    ours = greedy(target(generator, guidance_of(case), guidance_interval=interval), golden["gen.labels"])
    begins = [0, *accumulate(ours.sizes)][:-1]
    apart = [done for done in begins if guided_there(generator.unit.regions, int(last), done) != (done <= last + 1)]
    alike = order(golden)[: apart[0] if apart else None]
    theirs = generated(golden, case.rpartition(".")[0]).codes
    same(ours.codes[:, alike], theirs[:, alike])


CHECKS = {
    r"order": check_order,
    r"forward\.input_codes": check_order_of_codes,
    r"rope\.table": check_rope,
    r"group_mask": check_mask,
    r"forward(_null)?\.logits": check_logits,
    r"train(_null)?\.loss": check_loss,
    r"train\.grad_norms": check_gradients,
    r"decode\.logits": check_decoding,
    r"gen_.*\.logits": check_generated_logits,
    r"gen_.*_int\d+\.tokens(_raster)?": check_interval,
    r"gen_.*\.tokens(_raster)?": check_generated_codes,
}
