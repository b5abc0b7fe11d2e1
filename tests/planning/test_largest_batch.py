"""The search for the largest batch that fits, without a compiler."""

import pytest

from configs import pretrain
from vit_jax.planning.largest_batch import batch_unit, largest_batch


def search(needed, available, unit=8):
    """The compiled sizes and the resulting plan, given the bytes of a batch."""
    sizes = []

    def plan_of(size):
        sizes.append(size)
        fits = None if available is None else needed(size) <= available
        memory = {"parameters": 100, "optimizer": 200, "peak": int(needed(size))}
        memory |= {"available": available, "fits": fits}
        facts = {"batch_size": size, "compile_seconds": 1, "device_kind": "it"}
        return facts | {"memory": memory}

    return sizes, largest_batch(plan_of, unit, lambda _: None)


def test_the_largest_batch_of_a_line_takes_three_compilations():
    sizes, plan = search(lambda size: 400 + 10 * size, 13_000)
    assert plan["batch_size"] == sizes[-1] == 1256 and len(sizes) == 3
    # 400 + 10 * 1264 is more.
    assert 400 + 10 * 1264 > 13_000


@pytest.mark.parametrize("available", [5_000, 5_600, 10_000, 98_000])
def test_the_largest_batch_where_memory_is_no_line(available):
    """The compiler begins to rematerialise, until it no longer can."""

    def needed(size):
        jump = 90_000 if size > 900 else 0
        return 400 + 10 * min(size, 500) + max(0, size - 500) + jump

    sizes, plan = search(needed, available)
    best = plan["batch_size"]
    assert needed(best) <= available and len(sizes) < 14
    larger = [size for size in range(best, 8000, 8) if needed(size) <= available]
    assert max(larger) <= 1.03 * best


def test_small_batches_are_searched_too():
    assert search(lambda size: 400 + 100 * size, 1300)[1]["batch_size"] == 8
    with pytest.raises(ValueError, match="not even a batch of 8 fits"):
        search(lambda size: 400 + 100 * size, 1000)
    with pytest.raises(ValueError, match="not even a batch of 8 fits"):
        search(lambda size: 400 + 100 * size, 200)
    with pytest.raises(ValueError, match="memory of it is not known"):
        search(lambda size: size, None)


def test_batches_tried_can_be_divided():
    config = pretrain.get_config()
    config.mesh.update(data=-1, fsdp=2, tensor=2)
    config.train.accumulate_steps = 3
    assert batch_unit(config, range(16)) == 8 * 8 * 3
