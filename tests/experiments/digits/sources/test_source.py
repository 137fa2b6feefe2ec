"""What holds for every source alike."""

import copy
import random

import numpy as np
import pytest
import torch

from conjoin.errors import DataError
from conjoin.experiments.digits.sources import SPLITS, Images, Source, Split


def same(a: Images, b: Images) -> bool:
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def ask(source: Source, split: Split) -> int | None:
    """All of a part where it ends, and 60 where it does not."""
    return None if source.available(split) is not None else 60


@pytest.mark.parametrize("split", SPLITS)
def test_same_seed_same_images(source: Source, split: Split) -> None:
    again = copy.deepcopy(source)
    assert same(source.load(split, 5, seed=3), again.load(split, 5, seed=3))


@pytest.mark.parametrize("split", SPLITS)
def test_smaller_count_is_a_prefix(source: Source, split: Split) -> None:
    few, more = source.load(split, 3, seed=3), source.load(split, 5, seed=3)
    assert torch.equal(few.images, more.images[:3])
    assert torch.equal(few.labels, more.labels[:3])


def test_seed_decides_training_images(source: Source) -> None:
    assert not same(source.load("train", 30, seed=0), source.load("train", 30, seed=1))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_seed_does_not_decide_what_runs_are_judged_on(source: Source, split: Split) -> None:
    assert same(source.load(split, 5, seed=0), source.load(split, 5, seed=1))


def test_parts_share_no_image(source: Source) -> None:
    parts = [
        {image.numpy().tobytes() for image in source.load(split, ask(source, split)).images}
        for split in SPLITS
    ]
    assert len(set.union(*parts)) == sum(map(len, parts))


@pytest.mark.parametrize("split", SPLITS)
def test_whole_part_is_what_is_available(source: Source, split: Split) -> None:
    total = source.available(split)
    if total is None:
        with pytest.raises(DataError, match="no end"):
            source.load(split)
        return
    whole = source.load(split, seed=1)
    assert len(whole) == total
    assert len({image.numpy().tobytes() for image in whole.images}) == total
    with pytest.raises(DataError, match=f"has {total:,} images in its {split} part"):
        source.load(split, total + 1)


@pytest.mark.parametrize("count", [0, -1])
def test_count_must_be_positive(source: Source, count: int) -> None:
    with pytest.raises(DataError, match="asked for"):
        source.load("train", count)


def test_negative_seed_is_refused(source: Source) -> None:
    with pytest.raises(DataError, match="seed"):
        source.load("train", 2, seed=-1)


def test_unknown_part_is_refused(source: Source) -> None:
    for call in (source.available, lambda split: source.load(split, 2)):
        with pytest.raises(DataError, match="train, validation, test"):
            call("valid")  # type: ignore[arg-type]


def test_progress_rises_to_the_count(source: Source) -> None:
    calls: list[tuple[int, int]] = []
    source.load("train", 30, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (30, 30)
    assert calls == sorted(calls)


def test_global_generators_are_left_alone(source: Source) -> None:
    torch.manual_seed(5), random.seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    source.load("train", 5)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tobytes()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_identity_is_stable_and_one_line(source: Source) -> None:
    assert source.identity() == copy.deepcopy(source).identity()
    assert "\n" not in source.identity()
    assert source.name


GOOD = torch.zeros(2, 1, 32, 32, dtype=torch.uint8), torch.tensor([0, 9])


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GOOD[0].float(), GOOD[1], "uint8"),
        (GOOD[0][:, 0], GOOD[1], r"\[2, 32, 32\]"),
        (GOOD[0][..., 1:], GOOD[1], r"\[2, 1, 32, 31\]"),
        (GOOD[0], GOOD[1].int(), "int64"),
        (GOOD[0], GOOD[1][:1], r"\[1\]"),
        (GOOD[0], GOOD[1] + 1, "1 to 10"),
        (GOOD[0], GOOD[1] - 1, "-1 to 8"),
    ],
)
def test_images_checks(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    assert len(Images(*GOOD)) == 2
    with pytest.raises(DataError, match=message):
        Images(images, labels)


def test_images_takes_other_numbers_of_classes() -> None:
    assert Images(GOOD[0], GOOD[1] + 1, classes=11).classes == 11
    with pytest.raises(DataError, match=r"0 \.\. 8"):
        Images(*GOOD, classes=9)
