"""auto-MBW-rt's `recipe.txt`: the pair, the weights of its best merge, and the console log after them.

The weights line says nothing of its order, and three orders of the 27 are in use. It is taken for what can be
proven: the log lists the same weights by their number, which is nat order, and a history has them in nat
order too. A line that agrees with these under one order alone is in that order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from optimizer.blocks import NAT_ORDER, ORDERS, BlockWeights
from optimizer.formats.mbwrt_history import History
from optimizer.formats.text import read_alpha, read_lines, read_number
from scoring.errors import InputError

_KEYS = ("modelA", "modelB", "modelO", "position_id_fix", "output_mode")
_NUMBERED = re.compile(r"\s*'(\d{1,4})'\s*:\s*(\S+)")
_WEIGHTS_LINE = re.compile(r"\s*[-+\d.eE]+\s*(,[^,]*){5,}$")
_ORDER_NAMES = {
    "recipe": "recipe order (… OUT11, OUT, TIME_EMBED)",
    "runtime": "runtime-block-merge's order (… OUT11, TIME_EMBED, OUT)",
    "nat": "nat order (… M00, OUT, OUT00 …)",
}
# Both numbers were printed from the same float.
_SAME = 1e-6


@dataclass(frozen=True)
class ConsoleLog:
    """What the search printed at its end. weights: its numbered set, by block; the seconds are of the run."""

    score: float | None
    weights: BlockWeights
    seed: int | None
    evaluation_seconds: float | None
    optimization_seconds: float | None
    iteration_seconds: float | None


@dataclass(frozen=True)
class MbwrtRecipe:
    """A `recipe.txt` as it stands. Models are file names without their folders.

    line: the 27 numbers in their unnamed order; log: None where nothing was pasted after them.
    """

    file: Path
    model_a: str
    model_b: str
    model_o: str | None
    position_id_fix: str | None
    output_mode: str | None
    line: tuple[float, ...]
    log: ConsoleLog | None


@dataclass(frozen=True)
class Proven:
    """Weights whose order is known. by: what showed it, in words."""

    weights: BlockWeights
    by: str


def read_mbwrt_recipe(path: Path) -> MbwrtRecipe:
    """Read a `recipe.txt`. Raises InputError that names the file, the line and the remedy."""
    lines = read_lines(path)
    values = dict(_key_values(path, lines))
    for needed in ("modelA", "modelB"):
        if not values.get(needed):
            raise InputError(f"{path}: has no line {needed}=…; give the recipe.txt that auto-MBW-rt wrote")
    return MbwrtRecipe(
        file=path,
        model_a=_file_name(values["modelA"]),
        model_b=_file_name(values["modelB"]),
        model_o=_file_name(values["modelO"]) if values.get("modelO") else None,
        position_id_fix=values.get("position_id_fix"),
        output_mode=values.get("output_mode"),
        line=_weights_line(path, lines),
        log=_console_log(path, lines),
    )


def prove(recipe: MbwrtRecipe, history: History | None = None, order: str | None = None) -> Proven:
    """The recipe's weights by block, with what shows their order.

    history: of the same search; its best trials must have these weights. order: `recipe`, `runtime` or `nat`
    where the user knows it; what the files show must agree. Raises InputError where they contradict each
    other, and where nothing shows the order.
    """
    readings = {name: dict(zip(ORDERS[name], recipe.line, strict=True)) for name in ORDERS}
    if order is not None:
        if order not in ORDERS:
            raise InputError(f"order: unknown {order!r}; known: {', '.join(ORDERS)}")
        readings = {order: readings[order]}
    shown_by = []
    if recipe.log is not None:
        readings = _agreeing(recipe.file, readings, recipe.log.weights, "the numbered set of its log")
        shown_by.append("the numbered set of the log")
    if history is not None:
        readings = _agreeing_with_history(recipe, readings, history)
        shown_by.append(f"the best row of {history.file.name}")
    if not shown_by and order is None:
        raise InputError(
            f"{recipe.file}: nothing shows the order of its weights line, which has three readings; give the "
            "history of the same search too, or the order if you know it (auto-MBW-rt writes `recipe`)"
        )
    names = " and ".join(_ORDER_NAMES[name] for name in readings)
    told = "as told" if not shown_by else f"by {' and '.join(shown_by)}"
    weights = next(iter(readings.values()))
    return Proven({block: weights[block] for block in NAT_ORDER}, f"{names}, {told}")


def _agreeing(
    file: Path, readings: dict[str, BlockWeights], weights: BlockWeights, what: str
) -> dict[str, BlockWeights]:
    agreeing = {name: reading for name, reading in readings.items() if _same(reading, weights)}
    if agreeing:
        return agreeing
    name, reading = min(readings.items(), key=lambda item: len(_differences(item[1], weights)))
    blocks = _differences(reading, weights)
    first = blocks[0]
    raise InputError(
        f"{file}: its weights line and {what} disagree under every order; closest is {_ORDER_NAMES[name]}, "
        f"where {len(blocks)} blocks differ ({first} is {reading[first]:g} and {weights[first]:g}); one of "
        "them was changed or is of another merge: give the files of one search"
    )


def _agreeing_with_history(
    recipe: MbwrtRecipe, readings: dict[str, BlockWeights], history: History
) -> dict[str, BlockWeights]:
    best = history.best
    log = recipe.log
    if log is not None and log.score is not None and abs(log.score - best.score) > _SAME:
        raise InputError(
            f"{recipe.file} is of another search than {history.file}: its best score is {log.score:.6g}, the "
            f"history's is {best.score:.6g} (line {best.line}); give the two files of one pair"
        )
    # The highest score may stand in several rows.
    tops = [trial.weights for trial in history.trials if trial.score == best.score]
    agreeing = {
        name: reading for name, reading in readings.items() if any(_same(reading, top) for top in tops)
    }
    if not agreeing:
        raise InputError(
            f"{recipe.file} has other weights than the best row of {history.file} (line {best.line}, score "
            f"{best.score:.6g}), so it is of another pair or was changed; give the two files of one search"
        )
    return agreeing


def _same(one: BlockWeights, other: BlockWeights) -> bool:
    return not _differences(one, other)


def _differences(one: BlockWeights, other: BlockWeights) -> list[str]:
    return [block for block in NAT_ORDER if abs(one[block] - other[block]) > _SAME]


def _key_values(path: Path, lines: list[tuple[int, str]]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for number, line in lines:
        key, equals, value = line.partition("=")
        if not equals or key.strip() not in _KEYS:
            continue
        if found.setdefault(key.strip(), value.strip()) != value.strip():
            raise InputError(
                f"{path}, line {number}: a second {key.strip()}=; the file holds several recipes, split it"
            )
    return list(found.items())


def _file_name(path: str) -> str:
    # PureWindowsPath knows both separators, so it reads paths of every system.
    return PureWindowsPath(path).name


def _weights_line(path: Path, lines: list[tuple[int, str]]) -> tuple[float, ...]:
    # A line that begins as numbers with commas do is meant to be one, whatever stands further on.
    numeric = [(number, line.split(",")) for number, line in lines if _WEIGHTS_LINE.match(line)]
    if not numeric:
        raise InputError(
            f"{path}: has no weights line (27 numbers with commas); give the file that auto-MBW-rt wrote"
        )
    if len(numeric) > 1:
        raise InputError(f"{path}, line {numeric[1][0]}: a second weights line; split the recipes into files")
    number, cells = numeric[0]
    where = f"{path}, line {number}"
    if len(cells) != len(NAT_ORDER):
        raise InputError(
            f"{where}: the weights line has {len(cells)} numbers and needs {len(NAT_ORDER)}: "
            "which block is missing or too many can't be told; give the original file"
        )
    return tuple(read_alpha(cell, where, f"number {place}") for place, cell in enumerate(cells, 1))


def _console_log(path: Path, lines: list[tuple[int, str]]) -> ConsoleLog | None:
    numbered: dict[int, float] = {}
    for number, line in lines:
        match = _NUMBERED.fullmatch(line)
        if match is None:
            continue
        where, place = f"{path}, line {number}", int(match[1])
        value = read_alpha(match[2], where, f"the numbered weight '{place}'")
        if numbered.setdefault(place, value) != value:
            raise InputError(f"{where}: '{place}' has two values; the log is of several searches, keep one")
    if not numbered:
        return None
    missing = sorted(set(range(len(NAT_ORDER))) ^ set(numbered))
    if missing:
        raise InputError(
            f"{path}: its log numbers {len(numbered)} weights, and 0 to 26 are needed ({missing[0]} is off); "
            "paste the whole log again"
        )
    text = "\n".join(line for _, line in lines)
    seed = re.search(r"Random seed\s*:\s*(\d{1,20})\b", text)
    return ConsoleLog(
        score=_logged(path, text, "Best score"),
        weights={block: numbered[place] for place, block in enumerate(NAT_ORDER)},
        seed=int(seed[1]) if seed else None,
        evaluation_seconds=_logged(path, text, "Evaluation time"),
        optimization_seconds=_logged(path, text, "Optimization time"),
        iteration_seconds=_logged(path, text, "Iteration time"),
    )


def _logged(path: Path, text: str, name: str) -> float | None:
    found = re.search(rf"{name}\s*:\s*(\S+)", text)
    return None if found is None else read_number(found[1], str(path), f"`{name}` of its log")
