"""The highest versions that can be loaded are served, and a broken or half-copied one disturbs nobody."""

import asyncio
import shutil

import pytest

from bigearth_tf.errors import BundleError, NotServedError
from bigearth_tf.serving.server.versions import Versions


class Pool:
    """A pool that loads whatever does not say that it is broken, and drains when told."""

    def __init__(self, number):
        self.number, self.batcher, self.drained, self.closed = number, self, asyncio.Event(), False
        self.drained.set()

    async def idle(self):
        await self.drained.wait()

    def fail(self, error):
        self.error = error

    async def close(self):
        self.closed = True


class Model:
    """A folder of versions, and what was loaded from it."""

    def __init__(self, folder, keep=1):
        self.folder, self.loaded = folder, []
        self.versions = Versions("m", folder, keep, self.load)

    async def load(self, number, folder):
        self.loaded.append(number)
        if (text := (folder / "saved_model.pb").read_text()) != "good":
            raise BundleError(text)
        return Pool(number)

    def write(self, number, text="good"):
        path = self.folder / str(number)
        path.mkdir(exist_ok=True)
        (path / "saved_model.pb").write_text(text)

    async def refresh(self, settled=False):
        await self.versions.refresh(settled=settled)
        await asyncio.sleep(0.01)
        return sorted(self.versions.served)

    def states(self):
        return {status.version: status.state for status in self.versions.status()}


@pytest.fixture
def model(tmp_path):
    return Model(tmp_path)


def test_the_highest_version_is_served_and_replaces_the_one_before(model):
    async def go():
        for number in (2, 10):
            model.write(number)
        assert await model.refresh() == [10]
        before = model.versions.pick(None)[1]
        model.write(11)
        assert await model.refresh() == [11]
        assert before.closed
        assert model.loaded == [10, 11]
        assert model.states() == {11: "AVAILABLE", 10: "END", 2: "END"}
        assert model.versions.pick(None)[0] == 11
        with pytest.raises(NotServedError, match=r"version 10 of m is not served; ask for one of these, or none: 11"):
            model.versions.pick(10)

    asyncio.run(go())


def test_the_old_version_answers_what_it_has_taken(model):
    async def go():
        model.write(1)
        await model.refresh()
        old = model.versions.pick(1)[1]
        old.drained.clear()
        model.write(2)
        assert await model.refresh() == [2]
        assert not old.closed
        assert model.states() == {2: "AVAILABLE", 1: "UNLOADING"}
        old.drained.set()
        await asyncio.sleep(0.01)
        assert old.closed
        assert model.states() == {2: "AVAILABLE", 1: "END"}

    asyncio.run(go())


def test_a_broken_version_leaves_the_old_one_and_is_tried_again_when_it_changes(model):
    async def go():
        model.write(1)
        model.write(2, "broken")
        for _ in range(3):
            assert await model.refresh() == [1]
        assert model.loaded == [2, 1]
        assert [(s.version, s.state, s.error) for s in model.versions.status()] == [
            (2, "END", "broken"),
            (1, "AVAILABLE", ""),
        ]
        model.write(2, "still broken")
        assert await model.refresh() == [1]
        model.write(2)
        assert await model.refresh() == [2]
        assert model.states() == {2: "AVAILABLE", 1: "END"}

    asyncio.run(go())


def test_a_version_that_is_being_copied_waits_until_it_is_whole(model):
    async def go():
        model.write(1)
        await model.refresh()
        (model.folder / "2").mkdir()
        assert await model.refresh(settled=True) == [1]
        for size in range(1, 4):
            model.write(2, "good"[:size])
            assert await model.refresh(settled=True) == [1]
        assert model.states() == {2: "START", 1: "AVAILABLE"}
        model.write(2)
        assert await model.refresh(settled=True) == [1], "it has just changed"
        assert await model.refresh(settled=True) == [2]
        assert model.loaded == [1, 2]

    asyncio.run(go())


def test_taking_a_version_away_goes_back_to_the_one_before(model):
    async def go():
        model.write(1)
        await model.refresh()
        model.write(2)
        await model.refresh()
        shutil.rmtree(model.folder / "2")
        assert await model.refresh() == [1]
        assert model.states() == {1: "AVAILABLE"}

    asyncio.run(go())


def test_a_folder_that_is_empty_for_a_while_takes_nothing_away(model):
    async def go():
        model.write(1)
        await model.refresh()
        shutil.rmtree(model.folder / "1")
        assert await model.refresh() == [1]

    asyncio.run(go())


def test_several_versions_at_once(tmp_path):
    async def go():
        model = Model(tmp_path, keep=2)
        for number in (1, 2, 3):
            model.write(number)
        model.write(4, "broken")
        assert await model.refresh() == [2, 3]
        model.write(5)
        assert await model.refresh() == [3, 5]
        assert model.versions.pick(3)[1].number == 3

    asyncio.run(go())


def test_only_plain_numbers_are_versions(model):
    async def go():
        for name in ("01", "²", "-1", "1.5", "latest", ".export-1", "3"):
            model.write(name)
        assert await model.refresh() == [3]
        assert model.states() == {3: "AVAILABLE"}

    asyncio.run(go())


def test_what_does_not_end_in_time_is_given_up(model):
    async def go():
        model.write(1)
        await model.refresh()
        pool = model.versions.pick(None)[1]
        pool.drained.clear()
        await model.versions.close(grace_s=0.01)
        assert pool.closed
        assert "the server ends" in str(pool.error)
        assert model.versions.served == {}

    asyncio.run(go())


def test_it_says_why_there_is_none(model):
    async def go():
        await model.refresh()
        assert "holds no version of m; `bigearth-tf export` makes" in str(model.versions.why_none())
        model.write(1, "no such op")
        await model.refresh()
        assert "no version of m can be served; 1: no such op" in str(model.versions.why_none())

    asyncio.run(go())
