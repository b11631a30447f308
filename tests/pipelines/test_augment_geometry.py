"""Flips, turns and crops move every grid over the same ground and change no value."""

import numpy as np
import pytest
import tensorflow as tf

from bigearth_tf.bands import BAND_SETS, PATCH_METRES, BandSet
from bigearth_tf.errors import ConfigError
from bigearth_tf.pipelines.augment import apply_dihedral, dihedral_index
from bigearth_tf.pipelines.geometry import Crop, Dihedral, ground_cells
from tests.pipelines.augment_batches import augmented, draw_of, names_of

COUNT = 12


def ground(grid, count=COUNT):
    """Return pictures whose even bands hold how far south a pixel's centre lies, odd bands how far east, in metres."""
    gsd = PATCH_METRES // grid.size
    south, east = np.mgrid[0 : grid.size, 0 : grid.size] * gsd + gsd / 2
    picture = np.stack([(south, east)[band % 2] for band in range(len(grid.bands))], axis=-1)
    return np.repeat(picture[None], count, 0).astype(grid.dtype)


def grounds(bands, count=COUNT):
    return {grid.name: ground(grid, count) for grid in BAND_SETS[bands].grids}


def flipped(picture, bits):
    """Return what the move of `bits` makes of a (rows, columns, bands) picture."""
    picture = picture[:, ::-1] if bits & 1 else picture
    picture = picture[::-1] if bits & 2 else picture
    return picture.transpose(1, 0, 2) if bits & 4 else picture


def test_flips_and_turns_move_every_grid_of_a_record_alike():
    before = grounds("all")
    after, _ = augmented("dihedral", before)
    which = dihedral_index(names_of(COUNT), 0, 0).numpy()
    assert len(set(which)) > 4
    for name, pictures in before.items():
        for number, bits in enumerate(which):
            np.testing.assert_array_equal(after[name][number], flipped(pictures[number], bits), err_msg=name)


def test_flips_alone_turn_nothing():
    before = grounds("s1")
    after, _ = augmented("dihedral(turns=false)", before, bands="s1")
    which = dihedral_index(names_of(COUNT), 0, 0).numpy() % 4
    assert len(set(which)) == 4
    for number, bits in enumerate(which):
        np.testing.assert_array_equal(after["s1_10m"][number], flipped(before["s1_10m"][number], bits))
    with pytest.raises(ConfigError, match="true or false, got 1"):
        Dihedral(turns=1)


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "int64"])
def test_any_number_of_bands_of_any_type_moves_bit_by_bit(bands, dtype):
    random = np.random.default_rng(bands)
    bits = random.integers(0, 256, (8, 6, 6, bands * np.dtype(dtype).itemsize), dtype=np.uint8)
    pictures = bits.view(dtype)  # every bit pattern, NaN and infinity too
    moved = apply_dihedral(pictures, tf.range(8)).numpy()
    for number in range(8):
        assert moved[number].tobytes() == flipped(pictures[number], number).tobytes()


@pytest.mark.parametrize(("bands", "step"), [("all", 60), ("s1s2", 20), ("rgb", 10)])
def test_a_crop_shows_the_same_ground_in_every_grid(bands, step):
    chosen = BAND_SETS[bands]
    after, _ = augmented("crop", grounds(bands), bands=bands)
    window = Crop().window(draw_of(COUNT), chosen)
    assert PATCH_METRES // ground_cells(chosen) == step
    row, column, side = (each.numpy() * step for each in (window.row, window.column, window.side))
    assert len(set(side)) > 3
    for grid in chosen.grids:
        gsd = PATCH_METRES // grid.size
        centres = (np.arange(grid.size) + 0.5) * gsd
        for band in range(len(grid.bands)):
            first = column if band % 2 else row
            seen = after[grid.name][..., band].transpose(0, 2, 1) if band % 2 else after[grid.name][..., band]
            on_ground = first[:, None] + centres * (side / PATCH_METRES)[:, None]  # where a pixel's centre lies
            nearest = np.floor(on_ground / gsd) * gsd + gsd / 2
            np.testing.assert_array_equal(seen, np.repeat(nearest[..., None], grid.size, 2), err_msg=grid.name)


def test_sides_and_places_of_crops_cover_their_range():
    draw = draw_of(3000)
    window = Crop(scale=0.5).window(draw, BAND_SETS["all"])
    side, row, column = window.side.numpy(), window.row.numpy(), window.column.numpy()
    assert set(side) == set(range(10, 21))  # 600 .. 1200 m in steps of 60 m
    assert np.bincount(side)[10:].min() > 3000 / 11 * 0.75
    for first in (row, column):
        assert first.min() == 0
        assert (first + side).max() == 20
        assert set(first[side == 10]) == set(range(11))
    assert abs(np.corrcoef(row[side == 10], column[side == 10])[0, 1]) < 0.3
    assert set(Crop(scale=0.55).window(draw, BAND_SETS["all"]).side.numpy()) == set(range(11, 21))
    assert set(Crop(scale=1.0).window(draw, BAND_SETS["all"]).side.numpy()) == {20}
    assert set(Crop(scale=0.51).window(draw, BandSet(("B02", "B01"))).side.numpy()) == set(range(11, 21))


def test_a_crop_of_the_whole_patch_changes_nothing():
    before = grounds("all", 3)
    after, _ = augmented("crop(scale=1.0)", before)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


def test_crop_and_flip_in_one_pass_are_the_crop_and_then_the_flip():
    before = grounds("all")
    both, _ = augmented("dihedral, crop(scale=0.3)", before)
    one, _ = augmented("crop(scale=0.3)", before)
    other, _ = augmented("dihedral", one)
    for name in before:
        np.testing.assert_array_equal(both[name], other[name])
        assert both[name].dtype == before[name].dtype


def test_extreme_values_pass_unchanged():
    grids = {grid.name: np.full((2, *grid.shape), 65535, np.uint16) for grid in BAND_SETS["s2_12"].grids}
    grids["s2_10m"][1] = 0
    after, _ = augmented("dihedral, crop", grids, bands="s2_12")
    for name in grids:
        np.testing.assert_array_equal(after[name], grids[name])


def test_a_scale_outside_its_range_is_refused():
    with pytest.raises(ConfigError, match=r"scale of crop is a number from 0\.05 to 1\.0, got 1\.5"):
        Crop(scale=1.5)
