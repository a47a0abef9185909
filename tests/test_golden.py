"""Every recorded case of every published system: logits, losses, gradients, generations, codes, images.

POINTILLIST_GOLDEN=FOLDER runs the same checks over another folder of the same form.
"""

from __future__ import annotations

import pytest

from tests.golden_files import GOLDEN, HERE, Golden, find, folders, known, recorded, systems

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


def checked(golden: Golden) -> list[str]:
    """The cases that are no inputs, of a system that a file of tests/systems checks."""
    name = known(golden.system, systems())
    return [case for case in golden.cases if not find(systems()[name].INPUTS, case)] if name else []


def cases() -> list[tuple]:
    return [
        pytest.param(folder, case, id=f"{folder.name}-{case}")
        for folder in folders()
        for case in checked(recorded(folder))
    ]


@pytest.mark.parametrize(("folder", "case"), cases())
def test_case(folder, case, record_property):
    golden = recorded(folder)
    module = systems()[known(golden.system, systems())]
    check = find(module.CHECKS, case)
    assert check, f"nothing checks {case} of {folder.name}; it is neither in CHECKS nor in INPUTS of {module.__name__}"
    record_property("golden", [folder.name, case, check(golden, case)])


def test_something_is_recorded():
    assert folders(), f"{GOLDEN} holds no recorded system, FOLDER/NAME/meta.json"


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_every_system_is_checked_somewhere(folder):
    name = recorded(folder).system
    if known(name, systems()):
        assert checked(recorded(folder)), f"{folder} holds inputs alone"
        return
    if known(name, NOT_YET):
        pytest.xfail(f"the zoo does not load {name} yet")
    elsewhere = known(name, ELSEWHERE)
    assert elsewhere, f"{GOLDEN} holds {name}, which nothing checks"
    if folder.parent.resolve() != (HERE / "golden").resolve():
        pytest.xfail(f"{ELSEWHERE[elsewhere]} checks {elsewhere} of tests/golden alone")
