"""The stages of a model: its layers in groups that have a name in the field, for printing and drawing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import keras

from bigearth_tf.layers import SensorPresence
from bigearth_tf.models.catalog import FUSIONS, Variant, model_parts
from bigearth_tf.models.classifier import PatchClassifier
from bigearth_tf.models.flops import layer_multiplications, layer_parameters
from bigearth_tf.models.fusion import EARLY_STAGES, LATE_STAGES
from bigearth_tf.models.heads import CODES, EMBEDDING
from bigearth_tf.models.registry import FAMILIES, Family

INPUT, PREPARE, TRUNK, FUSION, HEAD = "input", "prepare", "trunk", "fusion", "head"


@dataclass(frozen=True)
class Stage:
    """Neighbouring layers of a model.

    Attributes:
        key: (branch, title); a branch is a grid, a sensor, or empty where all come together.
        kind: `input`, `prepare`, `trunk`, `fusion` or `head`.
        layers: names of its layers.
        shapes: of what it hands on, without the batch.
        dtype: NumPy name of the type of what it hands on; empty where the policy decides.
        parameters: that training changes.
        flops: of one patch.
        parents: keys of the stages it takes from.
    """

    key: tuple[str, str]
    kind: str
    layers: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    parameters: int
    flops: int
    parents: tuple[tuple[str, str], ...]

    @property
    def branch(self) -> str:
        return self.key[0]

    @property
    def title(self) -> str:
        return self.key[1]

    @property
    def output(self) -> str:
        """Shape and type of what it hands on, as people write them: 120 × 120 × 4 uint16."""
        shapes = dict.fromkeys(" × ".join(map(str, shape)) for shape in self.shapes)
        return f"{' and '.join(shapes)} {self.dtype}".rstrip()

    @property
    def parts_again(self) -> bool:
        """Whether it is the first of its branch after all had come together, as in cross-attention."""
        return bool(self.branch and self.parents) and not any(branch for branch, _ in self.parents)


def model_stages(model: PatchClassifier) -> list[Stage]:
    """Return the stages of a model, each after those it takes from.

    What tells the presence of a sensor is left out: it belongs to no stage, and every fusion uses it.
    """
    family, variant = model_parts(model.model_name)
    grids = {grid.name: grid.dtype for grid in model.contract.band_set.grids}
    rules = list(_rules(model, FAMILIES[family], variant))
    shown = [layer for layer in model.layers if not isinstance(layer, SensorPresence)]
    place = {layer.name: _place(layer.name, rules, grids) for layer in shown}
    parents = {layer.name: [name for name in _parents(model, layer) if name in place] for layer in shown}
    groups: dict[tuple[str, str], list] = {}
    for layer in shown:
        groups.setdefault(place[layer.name][0], []).append(layer)
    handed_on = {p for name, taken in parents.items() for p in taken if place[p] != place[name]}
    stages = []
    for key, layers in groups.items():
        names = [layer.name for layer in layers]
        kind = place[names[0]][1]
        out = [layer for layer in layers if layer.name in handed_on] or layers[-1:]
        stages.append(
            Stage(
                key=key,
                kind=kind,
                layers=tuple(names),
                shapes=tuple(tuple(layer.output.shape[1:]) for layer in out),
                dtype=grids[key[0]] if kind == INPUT else "float32" if kind in (PREPARE, HEAD) else "",
                parameters=sum(map(layer_parameters, layers)),
                flops=2 * sum(map(layer_multiplications, layers)),
                parents=tuple(dict.fromkeys(place[p][0] for n in names for p in parents[n] if place[p][0] != key)),
            )
        )
    names = list(grids)
    inputs = sorted((s for s in stages if s.kind == INPUT), key=lambda s: names.index(s.branch))
    return _in_order([*inputs, *(s for s in stages if s.kind != INPUT)])


def _rules(model: PatchClassifier, family: Family, variant: Variant) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, title, pattern), the first that matches a layer's name counts."""
    yield PREPARE, "normalise", "normalize_"
    yield PREPARE, f"resample ({model.contract.resampling})", "resample_"
    if variant.fusion == "late":
        for title, pattern in LATE_STAGES.items():
            named = f"fusion ({model.options.get('fusion', FUSIONS[0])})" if title == "fusion" else title
            yield FUSION, named, pattern
    else:
        for title, pattern in EARLY_STAGES.items():
            yield FUSION, title, pattern
    yield PREPARE, "stack bands", "stack_s"
    yield PREPARE, "absent is mean", "absent_"
    for title in (EMBEDDING, CODES):
        yield HEAD, title, title
    yield HEAD, "logits", "logits|head_dropout"
    for title, pattern in family.stages.items():
        yield TRUNK, title, pattern


def _place(name: str, rules: list, grids: dict[str, str]) -> tuple[tuple[str, str], str]:
    """Return the key and kind of the stage that a layer belongs to."""
    if name in grids:
        return (name, INPUT), INPUT
    sensors = dict.fromkeys(grid.partition("_")[0] for grid in grids)
    branches = "|".join([*grids, *sensors])
    inner = re.sub(rf"^({branches})_", "", name)
    branch = re.search(rf"({branches})$" if inner == name else rf"^({branches})", name)
    for kind, title, pattern in rules:
        if re.match(pattern, name) or re.match(pattern, inner):
            shared = kind in (FUSION, HEAD) or branch is None
            return ("" if shared else branch[1], title), kind
    raise LookupError(f"layer {name} belongs to no stage: the family's STAGES lack it")


def _parents(model: keras.Model, layer: keras.layers.Layer) -> list[str]:
    """Return the names of the layers whose output a layer takes."""
    if isinstance(layer, keras.layers.InputLayer):
        return []
    made_by = {id(other.output): other.name for other in model.layers}
    taken = layer.input if isinstance(layer.input, (list, tuple)) else [layer.input]
    return [made_by[id(tensor)] for tensor in taken]


def _in_order(stages: list[Stage]) -> list[Stage]:
    """Sort so that a branch is told to its end before the next, and every stage comes after those it takes from."""
    left, done, order = {stage.key: stage for stage in stages}, set(), []
    while left:
        ready = [stage for stage in left.values() if done.issuperset(stage.parents)]
        following = [stage for stage in ready if order and order[-1].key in stage.parents]
        stage = (following or ready)[0]
        order.append(stage)
        done.add(stage.key)
        del left[stage.key]
    return order
