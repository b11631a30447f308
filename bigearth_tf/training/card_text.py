"""What a result card says, as sections of tables, pictures and texts: card_markdown.py and card_html.py write them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bigearth_tf.contract import archive_title
from bigearth_tf.training.breakdown import FEW
from bigearth_tf.training.card_plots import ABLATION, BREAKDOWN, CLASSES, CURVES, RELIABILITY
from bigearth_tf.training.metrics import AVERAGES
from bigearth_tf.training.result_card import GRAD_CAM_FILE

if TYPE_CHECKING:
    from bigearth_tf.training.result_card import ResultCard

COUNTED = ("precision", "recall", "f05", "f1", "f2", "jaccard", "average_precision")
TITLES = {
    "precision": "precision",
    "recall": "recall",
    "f05": "F0.5",
    "f1": "F1",
    "f2": "F2",
    "jaccard": "Jaccard",
    "average_precision": "average precision",
    "hamming_loss": "Hamming loss",
    "subset_accuracy": "subset accuracy",
    "one_error": "one-error",
    "coverage": "coverage",
    "ranking_loss": "ranking loss",
    "label_ranking_average_precision": "label-ranking average precision",
    "prevalence_micro": "prevalence",
}
MEANINGS = {
    "hamming_loss": "share of wrong decisions",
    "subset_accuracy": "patches whose labels are all right",
    "one_error": "patches whose highest class is wrong",
    "coverage": "how many classes down the list all true ones are found",
    "ranking_loss": "share of pairs of a true and a false class in the wrong order",
    "label_ranking_average_precision": "mean precision at the true classes of a patch",
    "prevalence_micro": "share of positive labels: what random scores reach as micro average precision",
}
_SEEN = {
    "train": "These are patches to learn from: scores of a model that was trained on them say nothing of new ones.",
    "all": "Patches to learn from are among these: the scores are too good for a model that was trained on them.",
    "validation": "The best epoch, thresholds and temperature are chosen on this split: its scores are too good.",
}
_SOURCES = {
    "given": "given by hand",
    "stored": "stored in the model, fitted on validation",
    "default": "the default",
}


@dataclass(frozen=True)
class Table:
    """Rows of text; `faint` rows say little, columns of `words` are no numbers."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    faint: frozenset[int] = frozenset()
    words: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Picture:
    """A file of the card, and what it shows."""

    file: str
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    title: str
    blocks: tuple[Table | Picture | str, ...]


def title(card: ResultCard) -> str:
    """Return the heading of a card."""
    data = card.data
    return f"{data['model']} on {archive_title(data['records']['archive_version'])}, {data['split']}"


def number(value: float | int | None, interval: Sequence[float] | None = None) -> str:
    """Return a score as text: three decimals, with its interval; `-` where undefined."""
    if value is None:
        return "-"
    text = f"{value:.3f}" if isinstance(value, float) else f"{value:,}"
    return f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else text


def sections(card: ResultCard, pictures: Iterable[str]) -> list[Section]:
    """Return what a card says, in order; pictures that were not drawn are left out."""
    made = [
        Section("In short", _summary(card)),
        Section("Scores", _scores(card)),
        Section("Classes", _classes(card)),
        Section("Countries, seasons, numbers of labels", _parts(card)),
        Section("Calibration", _calibration(card)),
        *([Section("What the model looks at", _explanation(card.explanation.data))] if card.explanation else []),
        Section("Data", _data(card)),
        *([Section("Training", _training(card.data["training"]))] if card.data.get("training") else []),
        Section("Contract of the model", contract_tables(card)),
        Section("Software", (facts_table(card.data["environment"]),)),
        Section("How to read this", _CONVENTIONS),
    ]
    pictures = set(pictures)
    return [
        Section(s.title, tuple(b for b in s.blocks if not isinstance(b, Picture) or b.file in pictures)) for s in made
    ]


def _summary(card: ResultCard) -> tuple[Table | str, ...]:
    data = card.data
    scores, lows = data["scores"], _intervals(card)
    shown = " and ".join(sensor.upper() for sensor in data["sensors"])
    one = data["threshold"]
    rows = {
        "model": data["model"],
        "patches": f"{data['patches']:,}, shown as {shown}",
        "average precision, micro": number(scores["average_precision_micro"], lows.get("average_precision_micro")),
        "average precision, macro": number(scores["average_precision_macro"], lows.get("average_precision_macro")),
        "F1, micro": number(scores["f1_micro"], lows.get("f1_micro")),
        "F1, macro": number(scores["f1_macro"], lows.get("f1_macro")),
        "prevalence": number(scores["prevalence_micro"]),
        "thresholds": f"{'one per class' if one is None else f'{one:g}'}, {_SOURCES[data['threshold_source']]}",
    }
    notes = [_SEEN[data["split"]]] if data["split"] in _SEEN else []
    if data["overlap"]:
        notes.append("The model is of the other archive version: it was trained on patches of this split.")
    if lacking := data["classes_without_positives"]:
        notes.append(
            f"{len(lacking)} of {len(data['per_class'])} classes have no patch here and are left out of macro average "
            f"precision; macro precision, recall, F and Jaccard count them as 0: {', '.join(lacking)}."
        )
    if data["patches"] < FEW:
        notes.append(f"{data['patches']} patches are too few to score well.")
    return (facts_table(rows), *notes)


def _training(training: Mapping[str, Any]) -> tuple[Table]:
    config, best = training["config"], training["best_epoch"]
    rows = {key: value for key, value in config.items() if value not in ("", {}, 0, False)}
    rows["epochs"] = f"{training['epochs_done']} of {config['epochs']}"
    if best is not None:
        rows["epochs"] += f"; the model is that of epoch {best + 1}"
    return (facts_table({**rows, "sha256 of the model's file": training["model_sha256"]}),)


def _scores(card: ResultCard) -> tuple[Table | str, ...]:
    data, intervals = card.data, _intervals(card)
    averaged = [
        (TITLES[name], *(_cell(data["scores"], intervals, f"{name}_{average}") for average in AVERAGES))
        for name in COUNTED
    ]
    others = [(TITLES[name], number(data["scores"][name], intervals.get(name)), MEANINGS[name]) for name in MEANINGS]
    drawn = data["bootstrap"]
    said = (
        f"In brackets: {drawn['level']:.0%} bootstrap intervals, patches drawn {drawn['resamples']:,} times, seed "
        f"{drawn['seed']}."
        if drawn
        else "No intervals were asked for."
    )
    return (
        Table(("score", "micro", "macro", "weighted", "per sample"), tuple(averaged)),
        Table(("score", "value", "meaning"), tuple(others), words=frozenset({0, 2})),
        said,
    )


def _cell(scores: Mapping[str, float | None], intervals: Mapping[str, Any], name: str) -> str:
    return number(scores[name], intervals.get(name)) if name in scores else ""


def _classes(card: ResultCard) -> tuple[Table | Picture, ...]:
    data = card.data
    drawn = data["bootstrap"]["per_class"] if data["bootstrap"] else {}
    rows = []
    for name, row in data["per_class"].items():
        ap = number(row["average_precision"], drawn.get(name, {}).get("average_precision"))
        counted = (number(row[metric]) for metric in COUNTED[:-1])
        rows.append((name, number(row["support"]), f"{data['thresholds'][name]:.3f}", *counted, ap))
    header = ("class", "patches", "threshold", *(TITLES[metric] for metric in COUNTED))
    empty = frozenset(i for i, row in enumerate(data["per_class"].values()) if not row["support"])
    return (
        Picture(CLASSES, "Average precision of each class with its interval, and F1 at the threshold."),
        Table(header, tuple(rows), empty),
        Picture(CURVES, "Precision and recall over all thresholds; the dotted line is the prevalence of the class."),
    )


def _parts(card: ResultCard) -> tuple[Table | Picture | str, ...]:
    blocks: list[Table | Picture | str] = [
        Picture(BREAKDOWN, f"Scores of parts of the split; groups of fewer than {FEW} patches are grey.")
    ]
    columns = {
        "average_precision_micro": "AP micro", "average_precision_macro": "AP macro", "classes": "classes in it",
        "prevalence_micro": "prevalence", "precision_micro": "precision micro", "recall_micro": "recall micro",
        "f1_micro": "F1 micro", "f2_micro": "F2 micro",
    }  # fmt: skip
    for part, found in card.data["breakdown"].items():
        if "left_out" in found:
            blocks.append(f"By {part}: left out, {found['left_out']}.")
            continue
        rows = tuple(
            (f"{group} (few)" if row["few"] else group, number(row["patches"]), *(number(row[c]) for c in columns))
            for group, row in found["groups"].items()
        )
        faint = frozenset(i for i, row in enumerate(found["groups"].values()) if row["few"])
        heading = "number of labels" if part == "labels" else part
        blocks.append(Table((heading, "patches", *columns.values()), rows, faint))
    return tuple(blocks)


def _calibration(card: ResultCard) -> tuple[Table | Picture | str, ...]:
    found, stored = card.data["reliability"], card.data["calibration"]
    kinds = [("as shipped", found["as_shipped"])]
    if found["uncalibrated"]:
        kinds.insert(0, ("before calibration", found["uncalibrated"]))
    names = {
        "ece": "expected calibration error, bins of equal width",
        "ece_adaptive": "expected calibration error, bins of equally many",
        "brier": "Brier score",
        "nll": "negative log likelihood, nats",
    }
    rows = tuple((text, *(f"{values[name]:.4f}" for _, values in kinds)) for name, text in names.items())
    said = "The model has no calibration; `bigearth-tf calibrate` fits one on validation."
    if stored:
        unsure = f"; decisions below a confidence of {stored['unsure']:g} are unsure" if stored["unsure"] else ""
        fitted = f", fitted on {stored['patches']:,} patches of {stored['split']}" if stored["split"] else ""
        said = f"Temperature {stored['temperature']:.4f}{fitted}{unsure}."
    return (
        said,
        Table(("over all decisions, one per patch and class", *(kind for kind, _ in kinds)), rows),
        Picture(RELIABILITY, "What was said and what was true, and how often each probability was said."),
    )


def _explanation(data: Mapping[str, Any]) -> tuple[Table | Picture | str, ...]:
    found, maps = data["ablation"], data["grad_cam"]
    scored = f"the {found['patches']:,} patches of {found['split']}"
    if found["patches"] < found["of"]:
        scored = (
            f"{found['patches']:,} of the {found['of']:,} patches of {found['split']}, drawn with seed {found['seed']}"
        )
    blocks: list[Table | Picture | str] = [
        f"Ablation, on {scored}: a band is replaced by its mean or a sensor taken away, and the model is scored again. "
        f"Average precision with everything: {number(found['full']['micro'])} micro, {number(found['full']['macro'])} "
        "macro. A band that others stand in for is hardly missed, and a flat band is something that the model may "
        "never have seen: a drop says what this model leans on, not what a band is worth.",
        Picture(ABLATION, "Drop of average precision without each input; below, of each class (patches that have it)."),
    ]
    if "left_out" in maps:
        return (*blocks, f"Grad-CAM: left out, {maps['left_out']}.")
    layers = ", ".join(f"{layer} ({backbone})" for backbone, layer in maps["layers"].items())
    said = f"Grad-CAM at {layers}: where the evidence for the most likely classes lies in patches drawn with seed "
    shown = Picture(GRAD_CAM_FILE, "Bright is evidence for the class; each map has its own maximum as 1.")
    return (*blocks, f"{said}{maps['seed']}.", shown)


def _data(card: ResultCard) -> tuple[Table | str, ...]:
    data, records = card.data, card.data["records"]
    facts = {
        "archive": archive_title(records["archive_version"]),
        "split": f"{data['split']}, from: {records['split_source'] or 'unknown'}",
        "manifest sha256": data["manifest_sha256"],
        "names sha256": data["predictions"]["names_sha256"],
        "predictions sha256": data["predictions"]["sha256"],
        **{f"selection: {name}": json.dumps(value) for name, value in records["selection"].items()},
        **{f"made from {name}": value for name, value in records["hashes"].items()},
    }
    left_out = [
        *((reason, number(count)) for reason, count in records["left_out"].items()),
        *([("in the split `excluded` of the records", number(records["excluded_records"]))]
          if records["excluded_records"] else []),
        *([("skipped, could not be read", number(len(records["skipped"])))] if records["skipped"] else []),
    ]  # fmt: skip
    excluded = Table(("patches of the archive that are in no split", "patches"), tuple(left_out))
    return (facts_table(facts), excluded if left_out else "No patch of the archive was left out of the splits.")


def contract_tables(card: ResultCard) -> tuple[Table, ...]:
    """Return the data contract of the model of a card."""
    contract = card.contract
    statistics = contract.statistics
    return (
        facts_table(
            {
                "archive": archive_title(contract.archive_version),
                "bands": " ".join(contract.bands),
                "units": ", ".join(f"{sensor}: {unit}" for sensor, unit in contract.units.items()),
                "resampling": contract.resampling or "none",
                "statistics": (statistics.name or "own") if statistics else "none",
                "split": contract.split or "unknown",
                **{f"made from {name}": value for name, value in contract.hashes.items()},
            }
        ),
    )


def _intervals(card: ResultCard) -> dict[str, Any]:
    return card.data["bootstrap"]["scores"] if card.data["bootstrap"] else {}


def facts_table(rows: Mapping[str, Any]) -> Table:
    """Return a table of names and values."""
    return Table(("", ""), tuple((name, str(value)) for name, value in rows.items()), words=frozenset({0, 1}))


_CONVENTIONS = (
    "Scores are of the whole split, never averaged over batches. A label is predicted where its probability is at "
    "least the threshold of its class. A ratio with denominator 0 counts as 0. Per-sample scores are computed for each "
    "patch and averaged; macro F is the mean of the F of the classes; weighted means weigh a class by its patches.",
    "Average precision is exact: all thresholds, no interpolation. Ties count against the model in one-error, coverage "
    "and ranking loss; coverage starts at 1.",
    "Intervals are percentiles of the scores of as many patches, drawn with replacement. They say how far the score "
    "depends on the choice of patches, not how far it depends on the training. To tell two models apart use "
    "`bigearth-tf evaluate --compare CARD CARD`: it draws the same patches for both.",
)
