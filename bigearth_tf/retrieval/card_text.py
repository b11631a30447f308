"""What a card of retrieval says, as sections of tables, pictures and texts: card_pages.py writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bigearth_tf.training.card_text import Picture, Section, Table, contract_tables, facts_table, number

if TYPE_CHECKING:
    from bigearth_tf.retrieval.card import RetrievalCard

DEPTHS, CLASSES = "depths.png", "classes.png"
TITLES = {
    "precision": "precision",
    "recall": "recall",
    "average_precision": "mAP",
    "ndcg": "nDCG",
    "acg": "ACG",
    "wap": "WAP",
}
MEANINGS = {
    "precision": "share of the first k hits that are relevant",
    "recall": "share of all relevant patches that are among the first k hits; k / R at most, of R relevant patches",
    "average_precision": "mean over queries of average precision: the sum of the precisions at the relevant hits "
    "among the first k, over min(R, k)",
    "ndcg": "cumulative gain of the first k hits, each over log2(rank + 1), over that of the best order of the gallery",
    "acg": "average cumulative gain: mean number of labels that the first k hits share with the query",
    "wap": "weighted average precision: mean of the ACG at the relevant hits of the first k",
}
_SEEN = {
    "train": "The queries are of a split to learn from: the scores of a model that saw them say nothing of new ones.",
    "all": "Queries to learn from are among these: the scores are too good for a model that saw them.",
}
_PLACE = "share of the queries whose place is among the first k hits"


def title_of(metric: str, k: int | str) -> str:
    """Return the name of a metric at a depth."""
    return f"{TITLES[metric]}@{k}"


def title(card: RetrievalCard) -> str:
    """Return the heading of a card."""
    data = card.data
    asking, asked = data["queries"], data["gallery"]
    return (
        f"{data['model']}: {_sensors(asking)} queries ({asking['split']}) in an {_sensors(asked)} gallery "
        f"({asked['split']})"
    )


def sections(card: RetrievalCard) -> list[Section]:
    """Return what a card says, in order."""
    return [
        Section("In short", _summary(card.data)),
        Section("Scores", _scores(card.data)),
        Section("Classes", _classes(card.data)),
        Section("Countries, numbers of labels", _parts(card.data)),
        Section("Queries and gallery", _sides(card.data)),
        Section("Contract of the model", contract_tables(card)),
        Section("Software", (facts_table(card.data["environment"]),)),
        Section("How to read this", _conventions(card.data)),
    ]


def said_of_ranking(data: Mapping[str, Any]) -> str:
    """Return whether the hits are exact, for people."""
    index = data["index"]
    if index is None:
        return f"exact, by {data['metric']}"
    if index["kind"] == "flat" and index["metric"] == data["metric"]:
        return f"exact, by {data['metric']}: a flat index"
    recall = index["report"].get("recall")
    known = f", which found {recall:.3f} of the {index['report']['k']} nearest when it was built" if recall else ""
    return f"approximate, by {data['metric']}: an index of kind {index['kind']} with effort {index['effort']}{known}"


def notes(data: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know beside the numbers."""
    found = []
    if data["queries_without_relevant"]:
        what = "no patch of the same place" if data["median_rank_chance"] else "no relevant patch"
        found.append(
            f"{data['queries_without_relevant']:,} of {data['queries']['patches']:,} queries have {what} in the "
            "gallery: they have no score and are left out of all means."
        )
    if cut := [k for k in data["k_asked"] if k not in data["k"]]:
        found.append(f"k = {', '.join(map(str, cut))} is more than can be found and was cut to {data['k'][-1]}.")
    if data["left_out"]:
        found.append(f"{data['left_out']:,} queries are in the gallery themselves; none may find itself.")
    elif not data["median_rank_chance"] and data["queries"]["sensors"] != data["gallery"]["sensors"]:
        found.append("The same place, seen by the other sensor, is a hit like any other.")
    if data["seed"] is not None:
        found.append(f"The queries were drawn with seed {data['seed']}.")
    if data["queries"]["split"] in _SEEN:
        found.append(_SEEN[data["queries"]["split"]])
    if data["overlap"]:
        found.append("Queries and gallery are of different archive versions, whose splits overlap.")
    return found


def _sensors(side: Mapping[str, Any]) -> str:
    return " and ".join(sensor.upper() for sensor in side["sensors"])


def _summary(data: Mapping[str, Any]) -> tuple[Table | str, ...]:
    rows = {
        "model": f"{data['model']}, {data['layer']} of width {data['width']}",
        "queries": f"{data['queries_scored']:,}, {_sensors(data['queries'])}, {data['queries']['split']}",
        "gallery": f"{data['gallery']['patches']:,}, {_sensors(data['gallery'])}, {data['gallery']['split']}",
        "ranking": said_of_ranking(data),
        "relevant": _relevance(data),
    }
    metric, at = data["headline"]["metric"], data["k"].index(data["headline"]["k"])
    bounds = data["bootstrap"]["scores"][metric][at] if data["bootstrap"] else None
    rows[title_of(metric, data["headline"]["k"])] = cell(data["scores"][metric][at], bounds)
    rows["by chance"] = score(data["chance"][metric][at])
    if data["median_rank_chance"]:
        rows["median rank"] = median_rank(data)
        rows["median rank by chance"] = f"{data['median_rank_chance']:,g}"
    return (facts_table(rows), *notes(data))


def median_rank(data: Mapping[str, Any]) -> str:
    """Return the median rank as text, with its interval; one that lies beyond the search is not known."""

    def shown(rank: float | None) -> str:
        return f"over {data['k'][-1]:,}" if rank is None else f"{rank:,g}"

    ends = data["bootstrap"]["median_rank"] if data["bootstrap"] else None
    text = shown(data["median_rank"])
    return f"{text} [{shown(ends[0])}, {shown(ends[1])}]" if ends else text


def _relevance(data: Mapping[str, Any]) -> str:
    if data["relevance"] == "patch":
        return "the same place, seen by other sensors"
    if data["min_jaccard"] is None:
        return "patches that share a label with the query"
    return f"patches whose labels have a Jaccard index of {data['min_jaccard']:g} at least with the query's"


def cell(value: float, bounds: Sequence[float] | None = None) -> str:
    """Return a score as text, with its interval."""
    text = score(value)
    return f"{text} [{score(bounds[0])}, {score(bounds[1])}]" if bounds else text


def score(value: float) -> str:
    """Return a number with the digits that say something: recall of a few hits in a large gallery is not 0.000."""
    return f"{value:.3f}" if value == 0 or value >= 0.01 else f"{value:#.2g}"


def score_rows(data: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return rows of text for every metric: its name and scores, their intervals, and what chance reaches."""
    rows = []
    for metric, values in data["scores"].items():
        rows.append((TITLES[metric], *map(score, values)))
        if data["bootstrap"]:
            bounds = data["bootstrap"]["scores"][metric]
            rows.append(("interval", *(f"{score(low)}-{score(high)}" for low, high in bounds)))
        rows.append(("by chance", *map(score, data["chance"][metric])))
    return rows


def _scores(data: Mapping[str, Any]) -> tuple[Table | Picture | str, ...]:
    rows, drawn = score_rows(data), data["bootstrap"]
    faint = frozenset(number for number, row in enumerate(rows) if row[0] not in TITLES.values())
    said = (
        f"Intervals: {drawn['level']:.0%} bootstrap, queries drawn {drawn['resamples']:,} times, seed "
        f"{drawn['seed']}; the gallery is the same in all."
        if drawn
        else "No intervals were asked for."
    )
    return (
        Picture(DEPTHS, "Every metric over the depth of the ranking, with its interval and chance."),
        Table(("k", *(str(depth) for depth in data["k"])), tuple(rows), faint),
        said,
    )


def _classes(data: Mapping[str, Any]) -> tuple[Table | Picture, ...]:
    shown = title_of(data["headline"]["metric"], data["headline"]["k"])
    drawn = data["bootstrap"]["per_class"] if data["bootstrap"] else {}
    return (
        Picture(CLASSES, f"{shown} of the queries that have a class, with its interval; the mark is chance."),
        _group_table(data, "class", "class of the query", drawn),
    )


def _parts(data: Mapping[str, Any]) -> tuple[Table, ...]:
    return (
        _group_table(data, "country", "country of the query", {}),
        _group_table(data, "labels", "number of labels", {}),
    )


def _group_table(data: Mapping[str, Any], part: str, heading: str, intervals: Mapping[str, Any]) -> Table:
    """Return the scores of groups at the depth of the headline."""
    groups, at = data["breakdown"][part], data["k"].index(data["headline"]["k"])
    first = data["headline"]["metric"]
    metrics = (first, *(metric for metric in data["scores"] if metric != first))
    rows = []
    for name, row in groups.items():
        label = f"{name} (few)" if row["few"] and row["queries"] else name
        if row["scores"][first] is None:
            rows.append((label, "0", *("-" for _ in range(len(metrics) + 1))))
            continue
        bounds = {first: intervals.get(name)}
        cells = [cell(row["scores"][metric][at], bounds.get(metric)) for metric in metrics]
        rows.append((label, number(row["queries"]), cells[0], score(row["chance"][first][at]), *cells[1:]))
    k = data["headline"]["k"]
    header = (heading, "queries", title_of(first, k), "by chance", *(title_of(metric, k) for metric in metrics[1:]))
    return Table(header, tuple(rows), frozenset(i for i, row in enumerate(groups.values()) if row["few"]))


def _sides(data: Mapping[str, Any]) -> tuple[Table | str, ...]:
    sides = ("queries", "gallery")
    rows = {
        "file": "path",
        "split": "split",
        "patches": "patches",
        "type of the vectors": "dtype",
    }
    table = [(label, *(str(data[side][key]) for side in sides)) for label, key in rows.items()]
    table.append(("sensors", *(_sensors(data[side]) for side in sides)))
    table.append(("sha256 of the records' manifest", *(", ".join(data[side]["manifest_sha256"]) for side in sides)))
    facts = {
        "model": data["model"],
        "sha256 of its weights": data["model_sha256"],
        "vectors": f"{data['layer']} of width {data['width']}",
        "ranking": said_of_ranking(data),
    }
    if data["index"]:
        facts |= {f"index: {name}": value for name, value in data["index"]["options"].items()}
        facts |= {f"index, measured when built: {name}": value for name, value in _plain(data["index"]["report"])}
    facts |= {"sha256 of per_query.npz": data["per_query"]["sha256"]}
    return Table(("", *sides), tuple(table), words=frozenset({0, 1, 2})), facts_table(facts)


def _plain(report: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, value) for name, value in report.items() if isinstance(value, str | int | float)]


def _conventions(data: Mapping[str, Any]) -> tuple[str, ...]:
    if data["relevance"] == "patch":
        terms: tuple[str, ...] = (f"recall: {_PLACE}.", "Median rank: half of the places are found at it or before.")
    else:
        terms = tuple(f"{TITLES[metric]}: {MEANINGS[metric]}." for metric in data["scores"])
        gain = "g" if data["gain"] == "linear" else "2^g - 1"
        terms += (f"The gain g of a hit is the number of labels that it shares with the query; nDCG counts {gain}.",)
    return (
        f"Relevant: {_relevance(data)}.",
        *terms,
        "Chance is a random order of the gallery; its scores are exact expectations, not drawn. A score says something "
        "only as far as it is above them: patches with common labels find relevant ones whatever the vectors are.",
        "Equal distances are ranked in the order of the gallery. Means are over queries, never over batches; groups of "
        "few queries are grey.",
        "Intervals are percentiles of the means of as many queries, drawn with replacement. Patches that lie beside a "
        "query on the ground may be in the gallery, in the same split too: they are easier to find than others.",
    )
