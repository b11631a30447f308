"""Requests that wait are computed together, each gets its own answer, and what waits is bounded."""

import asyncio

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigearth_tf.errors import DeadlineError, OverloadedError, RequestError, ServerError
from bigearth_tf.serving.interface import PREDICT_METHOD, Signature, Tensor
from bigearth_tf.serving.server.batching import Batcher, WorkerDiedError
from bigearth_tf.serving.server.metrics import Metrics, VersionMetrics
from bigearth_tf.serving.server.settings import ServerSettings

FOREVER_S = 30.0  # a test that waits as long as this hangs
FLOATS = Tensor("float32", (None, 2))


def signature(name="double", output=FLOATS):
    return Signature(name, PREDICT_METHOD, {"x": FLOATS}, {"y": output})


def patches(*values):
    return {"x": np.array([[v, -v] for v in values], np.float32)}


class Worker:
    """Doubles its input, and remembers what it was asked; `open` lets it answer."""

    def __init__(self, act=lambda batch: None):
        self.act, self.batches, self.at_once, self.most_at_once = act, [], 0, 0
        self.open = asyncio.Event()
        self.open.set()

    async def run(self, signature, parts):
        batch = [len(part) for part in parts["x"]]
        self.batches.append(batch)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self.open.wait()
            joined = np.concatenate(parts["x"])
            self.act(joined)
            return {"y": 2 * joined}
        finally:
            self.at_once -= 1


def batcher(*workers, **options):
    made = Batcher(ServerSettings(**options), VersionMetrics(Metrics(), "m", 1))
    for worker in workers:
        made.add(worker.run)
    return made


async def ask(batcher, inputs, *, kind=None, allowed_s=FOREVER_S):
    deadline = asyncio.get_running_loop().time() + allowed_s
    return (await batcher.submit(kind or signature(), inputs, len(inputs["x"]), deadline))["y"]


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


def run(test):
    """Run an async test: no plugin is needed for that."""

    async def bounded():
        async with asyncio.timeout(2 * FOREVER_S):
            await test()

    def wrapper():
        asyncio.run(bounded())

    wrapper.__name__ = test.__name__
    return wrapper


@run
async def test_requests_that_wait_are_computed_together_and_get_their_own_rows():
    worker = Worker()
    queue = batcher(worker)
    worker.open.clear()
    asked = [asyncio.create_task(ask(queue, patches(i))) for i in range(5)]
    await settle()
    more = [asyncio.create_task(ask(queue, patches(*range(10, 10 + n)))) for n in (1, 2, 3)]
    await settle()
    worker.open.set()
    found = await asyncio.gather(*asked, *more)
    assert worker.batches == [[1] * 5, [1, 2, 3]]
    assert [y[:, 0].tolist() for y in found] == [[0], [2], [4], [6], [8], [20], [20, 22], [20, 22, 24]]


@run
async def test_one_client_alone_never_waits_for_others():
    worker = Worker()
    queue = batcher(worker, batch_timeout_ms=1000 * FOREVER_S)
    for i in range(3):
        assert (await ask(queue, patches(i), allowed_s=FOREVER_S / 2))[0, 0] == 2 * i
    assert worker.batches == [[1]] * 3


@run
async def test_an_idle_worker_waits_for_as_many_as_came_last_time():
    worker = Worker()
    queue = batcher(worker, batch_timeout_ms=1000 * FOREVER_S)
    await asyncio.gather(*(ask(queue, patches(i)) for i in range(4)))
    early = asyncio.create_task(ask(queue, patches(1)))
    await settle()
    assert len(worker.batches) == 1
    await asyncio.gather(early, *(ask(queue, patches(i)) for i in range(3)))
    assert worker.batches == [[1] * 4, [1] * 4]


@run
async def test_a_large_request_is_computed_in_slices_and_answered_whole():
    worker = Worker()
    found = await ask(batcher(worker, max_batch_size=4), patches(*range(10)))
    assert [sum(batch) for batch in worker.batches] == [4, 4, 2]
    np.testing.assert_array_equal(found, 2 * patches(*range(10))["x"])


@run
async def test_no_batch_is_larger_than_a_request_may_be():
    worker = Worker()
    queue = batcher(worker, max_body_bytes=40)  # a patch has 8 bytes
    await asyncio.gather(*(ask(queue, patches(i, i)) for i in range(5)))
    assert worker.batches == [[2, 2], [2, 2], [2]]


@run
async def test_a_worker_has_two_batches_at_most():
    worker = Worker()
    queue = batcher(worker, max_batch_size=2)
    worker.open.clear()
    asked = [asyncio.create_task(ask(queue, patches(i))) for i in range(20)]
    await settle()
    assert (worker.at_once, queue.waiting) == (2, 16)
    worker.open.set()
    await asyncio.gather(*asked)
    assert worker.most_at_once == 2


@run
async def test_all_workers_get_work():
    workers = [Worker(), Worker()]
    queue = batcher(*workers)
    for worker in workers:
        worker.open.clear()
    asked = [asyncio.create_task(ask(queue, patches(1)))]
    await settle()
    asked.append(asyncio.create_task(ask(queue, patches(2))))
    await settle()
    assert [worker.batches for worker in workers] == [[[1]], [[1]]]
    for worker in workers:
        worker.open.set()
    await asyncio.gather(*asked)


@run
async def test_signatures_and_shapes_are_never_mixed():
    worker = Worker()
    worker.open.clear()
    queue = batcher(worker)
    wide = {"x": np.zeros((1, 3), np.float32)}
    single = signature("single", Tensor("float32", (2,)))  # its output has no place for a second patch
    asks = [(patches(1), None), (patches(2), signature("other")), (wide, None), (patches(3), None)]
    asks += [(patches(4), single), (patches(5), single)]
    asked = [asyncio.create_task(ask(queue, inputs, kind=kind)) for inputs, kind in asks]
    await settle()
    worker.open.set()
    await asyncio.gather(*asked)
    assert sorted(worker.batches) == [[1], [1], [1], [1], [1, 1]]


@run
async def test_without_batching_every_request_is_computed_alone():
    worker = Worker()
    queue = batcher(worker, batching=False)
    await asyncio.gather(*(ask(queue, patches(i)) for i in range(5)))
    assert worker.batches == [[1]] * 5


@run
async def test_a_signature_that_joins_its_patches_is_asked_one_by_one():
    class Mean(Worker):
        async def run(self, signature, parts):
            await super().run(signature, parts)
            return {"y": np.concatenate(parts["x"]).mean(axis=0, keepdims=True)}

    worker = Mean()
    queue = batcher(worker)
    for _ in range(2):
        found = await asyncio.gather(*(ask(queue, patches(i, i + 2)) for i in range(3)))
        assert [y[0, 0] for y in found] == [1, 2, 3]
    assert worker.batches == [[2, 2, 2], *[[2]] * 6], "the second time it is known"


@run
async def test_one_bad_request_fails_alone():
    def refuse_nan(joined):
        if np.isnan(joined).any():
            raise RequestError("NaN in x")

    worker = Worker(refuse_nan)
    queue = batcher(worker)
    asked = [ask(queue, patches(v)) for v in (1, 2, float("nan"), 4)]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[2], RequestError)
    assert [y[0, 0] for y in (found[0], found[1], found[3])] == [2, 4, 8]


@run
async def test_a_full_queue_refuses_at_once_and_a_client_that_is_gone_frees_its_place():
    worker = Worker()
    queue = batcher(worker, max_batch_size=1, max_queue=4)
    worker.open.clear()
    asked = [asyncio.create_task(ask(queue, patches(i))) for i in range(2)]
    await settle()
    asked += [asyncio.create_task(ask(queue, patches(i))) for i in (2, 3, 4, 5)]
    await settle()
    assert queue.waiting == 4
    with pytest.raises(OverloadedError, match="at most 4 patches wait for a model, and 4 do"):
        await ask(queue, patches(9))
    asked.pop(3).cancel()
    await settle()
    assert queue.waiting == 3
    asked.append(asyncio.create_task(ask(queue, patches(9))))
    await settle()
    worker.open.set()
    assert [y[0, 0] for y in await asyncio.gather(*asked)] == [0, 2, 4, 8, 10, 18]
    assert len(worker.batches) == 6, "the one that was cancelled was not computed"


@run
async def test_what_is_too_late_is_not_computed():
    worker = Worker()
    queue = batcher(worker, max_batch_size=1)
    worker.open.clear()
    asked = [asyncio.create_task(ask(queue, patches(i))) for i in range(2)]
    await settle()
    with pytest.raises(DeadlineError):
        await ask(queue, patches(2), allowed_s=0.01)
    assert queue.waiting == 0
    worker.open.set()
    await asyncio.gather(*asked)
    await queue.idle()
    assert len(worker.batches) == 2


class Mortal(Worker):
    """Dies of the number 13; a batch that waits behind one that kills it is not to blame."""

    def __init__(self, queue=None):
        super().__init__()
        self.queue = queue

    async def run(self, signature, parts):
        try:
            return await super().run(signature, parts)
        finally:
            if 13 in np.concatenate(parts["x"]):
                self.queue.remove(self.run)
                self.queue.add(Mortal(self.queue).run)
                raise WorkerDiedError(started=True)


@run
async def test_only_the_request_that_kills_workers_fails():
    queue = batcher()
    queue.add(Mortal(queue).run)
    found = await asyncio.gather(*(ask(queue, patches(v)) for v in (1, 13, 3, 4)), return_exceptions=True)
    assert isinstance(found[1], ServerError)
    assert "2 worker processes ended" in str(found[1])
    assert [y[0, 0] for y in (found[0], found[2], found[3])] == [2, 6, 8]


@run
async def test_a_request_that_only_waited_in_dead_workers_is_answered():
    queue = batcher()

    def unlucky(times):
        async def run(signature, parts):
            queue.remove(run)
            queue.add(unlucky(times - 1) if times else Worker().run)
            raise WorkerDiedError(started=False)

        return run

    queue.add(unlucky(5))
    assert (await ask(queue, patches(1)))[0, 0] == 2


@run
async def test_nothing_is_lost_while_there_is_no_worker():
    queue = batcher()
    asked = [asyncio.create_task(ask(queue, patches(i))) for i in range(3)]
    await settle()
    assert queue.waiting == 3
    queue.add(Worker().run)
    assert [y[0, 0] for y in await asyncio.gather(*asked)] == [0, 2, 4]


@run
async def test_giving_up_answers_what_waits_and_what_runs():
    worker = Worker()
    worker.open.clear()
    queue = batcher(worker, max_batch_size=1)
    asked = [asyncio.create_task(ask(queue, patches(i))) for i in range(5)]
    await settle()
    queue.fail(OverloadedError("ending"))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(error) for error in found] == ["ending"] * 5
    worker.open.set()
    await queue.idle()


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    gone=st.sets(st.integers(0, 29)),
    limit=st.integers(1, 8),
    workers=st.integers(1, 3),
)
def test_every_answer_belongs_to_its_request(sizes, gone, limit, workers):
    async def go():
        made = [Worker() for _ in range(workers)]
        queue = batcher(*made, max_batch_size=limit, max_queue=300)
        values = [patches(*range(100 * i, 100 * i + size)) for i, size in enumerate(sizes)]
        asked = [asyncio.create_task(ask(queue, value)) for value in values]
        await asyncio.sleep(0)
        for i in gone & set(range(len(sizes))):
            asked[i].cancel()
        found = await asyncio.gather(*asked, return_exceptions=True)
        for i, (value, answer) in enumerate(zip(values, found, strict=True)):
            if i not in gone:
                np.testing.assert_array_equal(answer, 2 * value["x"])
        assert max((sum(batch) for worker in made for batch in worker.batches), default=0) <= limit
        await queue.idle()
        assert queue.waiting == 0

    asyncio.run(go())
