"""Every recorded case of every published system: logits, losses, gradients, generations, codes, images.

POINTILLIST_GOLDEN=FOLDER runs the same checks over another folder of the same form.
"""

from __future__ import annotations

import pytest

from tests.golden_files import GOLDEN, find, folders, recorded, systems

ELSEWHERE = {  # recorded numbers of other rooms
    "filters_and_acceptance": "test_relaxed.py",
    "masked_decoding": "test_masked.py",
    "metrics": "test_scores_frechet.py and others",
    "networks": "test_networks_vision.py",
}
NOT_YET = {  # published systems that the zoo does not load so far
    "imagefolder", "kl16", "mar", "maskgit_vqgan", "quantisers", "rar", "titok", "titok_generator",
    "titok_generator_uvit", "titok_v2", "xar",
}  # fmt: skip


def cases() -> list[tuple]:
    found = []
    for folder in folders():
        golden = recorded(folder)
        name = golden.meta.get("system", folder.name)
        if name not in systems():
            continue
        found += [
            pytest.param(folder, case, id=f"{folder.name}-{case}")
            for case in golden.cases
            if not find(systems()[name].INPUTS, case)
        ]
    return found


@pytest.mark.parametrize(("folder", "case"), cases())
def test_case(folder, case, record_property):
    golden = recorded(folder)
    module = systems()[golden.meta.get("system", folder.name)]
    check = find(module.CHECKS, case)
    assert check, f"nothing checks {case} of {folder.name}; it is neither in CHECKS nor in INPUTS of {module.__name__}"
    record_property("golden", [folder.name, case, check(golden, case)])


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_every_system_is_checked_somewhere(folder):
    name = recorded(folder).meta.get("system", folder.name)
    if name in NOT_YET and name not in systems():
        pytest.xfail(f"the zoo does not load {name} yet")
    assert name in systems() or name in ELSEWHERE, f"{GOLDEN} holds {name}, which nothing checks"
