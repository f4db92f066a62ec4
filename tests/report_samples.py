"""A store with made-up answers of all studies: three training modes of one network, a few images, all endings."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bourn.studies.store import Record, Store

ERRORS = """network,weights,epsilon,test_error_pct,pgd_lower_pct,milp_lower_pct,milp_upper_pct,lp_all_upper_pct,lp_greedy_upper_pct
Net,net_NOR,0.1,10.0,30.04,31,52,60.0,79.5
Net,net_NOR,0.2,1,2,3,4,5,6
"""
DISTORTIONS = """network,training,lp_greedy_mean_1e-3,lp_all_mean_1e-3,pgd_mean_1e-3,lp_greedy_median_gap_pct,lp_all_median_gap_pct
net,ADV,52.25,60,104.5,50,40.04
"""

MODES = ("NOR", "ADV", "LPD")
LADDER = ("ibp", "forward", "deepz", "fast-lin", "crown", "alpha-crown-all", "lp-last", "lp-all")
OUTCOMES = ("wrong", "attacked", "certified", "certified", "certified", "beyond", "beyond", "undecided", "attacked", "certified")
"""Of lp-all, by image."""


def task(study: str, mode: str, image: int, method: str, radius: float | None) -> dict[str, Any]:
    """A task as a study states it."""
    network = f"net_{mode}"
    return {
        "study": study,
        "network": network,
        "network_hash": f"hash of {network}",
        "mode": mode,
        "image": image,
        "input_hash": f"hash of image {image}",
        "label": image % 10,
        "radius": radius,
        "clip": [0.0, 1.0],
        "method": method,
        "options": {"cascade": ["pgd"]} if method == "lp-all" and study == "adversarial-error" else {},
    }


def error_result(image: int, method: str) -> dict[str, Any]:
    """What one method finds of an image: lp-all after a cascade, Fast-Lin alone."""
    outcome = OUTCOMES[image]
    if method != "lp-all":
        known = outcome == "wrong" or (outcome == "certified" and image < 4)
        outcome = outcome if known else "undecided"
    attacked = outcome == "attacked"
    return {
        "outcome": outcome,
        "decided_by": {"wrong": "prediction", "attacked": "attack", "beyond": "bracket"}.get(outcome, method),
        "bound": {"certified": 0.25, "beyond": -0.5, "undecided": -0.125}.get(outcome),
        "attained": None if outcome == "wrong" else -0.2 if attacked else 1.5,
        "ceiling": -0.25 if outcome == "beyond" else None,
        "stages": [{"name": "prediction", "seconds": 0.001}, {"name": method, "seconds": 0.2}],
    }


def ladder_result(generator: random.Random) -> dict[str, Any]:
    """Bounds that grow up the ladder, and losses that sum to the gap of the last margin."""
    attained = [2 + generator.random() for _ in range(9)]
    factors = dict(zip(LADDER, (80.0, 12.0, 4.0, 4.0, 3.0, 1.3, 2.2, 1.2), strict=True))
    share = [generator.random() for _ in range(9)]
    bounds = {m: [a - f * s for a, s in zip(attained, share, strict=True)] for m, f in factors.items()}
    worst = min(range(9), key=lambda i: attained[i])
    losses: dict[str, list[dict[str, Any]]] = {}
    for m in LADDER:
        gap = attained[worst] - bounds[m][worst]
        inner = 0.0 if m == "lp-all" else 0.4 * gap
        losses[m] = [
            {"node": "the input set", "relaxation": 0.25 * (gap - inner), "inner": 0.0},
            {"node": "first", "relaxation": 0.25 * (gap - inner), "inner": 0.0},
            {"node": "second", "relaxation": 0.5 * (gap - inner), "inner": 1.25 * inner},
            {"node": "third", "relaxation": 0.0, "inner": -0.25 * inner},
        ]
    seconds = {m: 0.002 * 2.5**i for i, m in enumerate(LADDER)}
    return {"bounds": bounds, "attained": attained, "seconds": seconds, "losses": losses}


def records(images: int = 10) -> Iterator[Record]:
    """All answers."""
    generator = random.Random(0)
    for m, mode in enumerate(MODES):
        for image in range(images):
            for method in ("fast-lin", "lp-all"):
                asked = task("adversarial-error", mode, image, method, 0.1)
                yield Record.of(asked, error_result(image % len(OUTCOMES), method), 0.2)
            attack = 0.05 * (m + 1) * (1 + 0.01 * image)
            for method, share in (("pgd", 1.0), ("fast-lin", 0.5), ("lp-all", 0.6)):
                radius = share * attack
                result = {"radius": radius, "failed": radius * 1.001, "runs": 9}
                yield Record.of({**task("minimum-distortion", mode, image, method, None), "clip": None}, result, 1.5 * share)
            if 2 <= image < 5:
                radius = 0.05 if mode == "NOR" else 0.1
                yield Record.of(task("ladder", mode, image, "ladder", radius), ladder_result(generator), 3.0)


def sample_store(path: Path, images: int = 10) -> Path:
    """The file of a store that holds them."""
    with Store(path) as store:
        store.put_all(records(images))
    return path


def figures_given(folder: Path) -> list[Path]:
    """Files of figures to stand beside the sample's: adversarial errors, and minimum distortions."""
    files = {"errors.csv": ERRORS, "distortions.csv": DISTORTIONS}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files]
