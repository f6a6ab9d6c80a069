"""The bracket: in which order the leaves of a job are merged, pair by pair, into one final model.

Typed data first (`Bracket`), its text second: a table of rows O, A, B, which `table` writes and `explicit`
reads. Pure functions that know names only; nothing here reads a file or a database.

An input of a row may be a pick, "the better of": `best(206b,207b)`. The table is written as if the FIRST
candidate of every pick were picked. When another candidate is picked, the two change places: every other
mention of the picked one stands for the first candidate instead. So nothing is merged twice and nothing is
lost, whichever is better. With

    208b = 205b + best(206b,207b)
    209b = 207b + 208b

a better 206b gives 208b = 205b + 206b and 209b = 207b + 208b; a better 207b gives 208b = 205b + 207b and
209b = 206b + 208b. The method, and this table, are those of AstolfoMix-SD2 ("pick the best").
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import chain, combinations, count, pairwise
from typing import TYPE_CHECKING, Literal

from scoring.errors import InputError

# numpy takes a tenth of a second to import, which a command that only prints a table need not pay.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PICK = re.compile(r"best\((.*)\)")

Kind = Literal["balanced", "sequential", "explicit"]
"""How the shape of a bracket came about: by one of two rules, or row by row."""


@dataclass(frozen=True)
class Pick:
    """The better of two or more nodes; its text is `best(206b,207b)`."""

    candidates: tuple[str, ...]


Input = str | Pick
"""What a node merges: a leaf or a node by its name, or the better of several nodes."""


@dataclass(frozen=True)
class BracketNode:
    """One merge, a row of the table: a + b -> output."""

    output: str
    a: Input
    b: Input


@dataclass(frozen=True)
class Bracket:
    """Leaves and the nodes that merge them; made by `balanced`, `sequential` and `explicit`.

    nodes: one less than leaves, in an order in which what a node needs precedes it; the last is the final
    one.
    """

    leaves: tuple[str, ...]
    nodes: tuple[BracketNode, ...]


def balanced(leaves: Sequence[str], first: str = "01b") -> Bracket:
    """Rounds in which neighbours are merged: first + second, third + fourth, and so on until one is left.

    In a round of an odd number of entrants the last one waits until the others are merged, and is then
    merged, as A, with the best of the round's outputs (the plain output where there is only one). Entrants
    of the next round are the outputs that were not picked, in order, and then the output of that extra
    merge. Every leaf goes through about log2(leaves) merges, so none is diluted more than another.

    leaves: two or more different names; first: name of the first node, with a number in it that the others
    count up from. Raises InputError.
    """
    return _checked(_lay_balanced(tuple(leaves), _names_from(first)))


def sequential(leaves: Sequence[str], first: str = "01b") -> Bracket:
    """One leaf after the other: ((a + b) + c) + d. To such a bracket leaves can be added at any time.

    Arguments and errors as for `balanced`.
    """
    return _checked(_lay_sequential(tuple(leaves), _names_from(first)))


def explicit(rows: Iterable[Mapping[str, object]], leaves: Sequence[str] | None = None) -> Bracket:
    """A bracket from the rows of a table; `explicit(table(bracket))` is `bracket` again.

    rows: mappings with o, a and b (or O, A, B), in any order; a and b as `parse_input` reads them. leaves:
    what the table must merge, no more and no less; None takes every name that is nobody's output, in the
    order in which the rows mention them. Raises InputError, see `check`.
    """
    nodes = tuple(_parse_row(number, row) for number, row in enumerate(rows, start=1))
    outputs = {node.output for node in nodes}
    mentioned = dict.fromkeys(name for node in nodes for name in _names_in(node) if name not in outputs)
    unsorted = Bracket(tuple(mentioned if leaves is None else leaves), nodes)
    _check_outputs(unsorted)
    return _checked(Bracket(unsorted.leaves, _in_order(nodes)))


def table(bracket: Bracket) -> list[dict[str, str]]:
    """The bracket as rows `{"o": "209b", "a": "207b", "b": "208b"}`."""
    return [{"o": node.output, "a": input_text(node.a), "b": input_text(node.b)} for node in bracket.nodes]


def parse_input(text: str) -> Input:
    """`206b`, or a pick: `best(206b,207b)`. Raises InputError for candidates that can't be names of nodes."""
    pick = _PICK.fullmatch(text)
    if pick is None:
        _check_plain(text)
        return text
    candidates = tuple(name.strip() for name in pick[1].split(","))
    for name in candidates:
        _check_name(name)
    return Pick(candidates)


def input_text(value: Input) -> str:
    """What `parse_input` reads."""
    return f"best({','.join(value.candidates)})" if isinstance(value, Pick) else value


def resolve(bracket: Bracket, scores: Mapping[str, float]) -> dict[str, tuple[str, str]]:
    """What each node merges, A and B by name, for all nodes whose inputs are decided and made.

    scores: node -> its score, for every node that is made; the highest score of a pick wins, and of equal
    ones the earlier candidate. A pick is decided when all its candidates are made; until then every node
    that mentions one of them waits. Nodes that are made stay in the result, with what they were made of.
    Raises InputError for a NaN and for a score of something that is no node.
    """
    _check_scores(scores, [node.output for node in bracket.nodes])
    made = {*bracket.leaves, *scores}
    standing = _standing(bracket, scores)
    pairs = {node.output: (standing[node.a], standing[node.b]) for node in bracket.nodes}
    return {output: (a, b) for output, (a, b) in pairs.items() if a in made and b in made}


def levels(bracket: Bracket) -> dict[str, int]:
    """Node -> its level: 1 merges leaves only, others lie one above the highest that they wait for."""
    found: dict[str, int] = {}
    for output, needed in _needs(bracket.nodes).items():
        found[output] = 1 + max((found[name] for name in needed), default=0)
    return found


def with_leaves(
    bracket: Bracket, kind: Kind, added: Sequence[str], started: Collection[str], first: str = "01b"
) -> Bracket:
    """The bracket of a running job after leaves are added: the same kind over all leaves, new ones last.

    kind: how `bracket` was made; started: nodes that have begun or are done. They must be in the new bracket
    with the same inputs. Nodes that are the same in both keep their names, and all others get numbers above
    those of `bracket`, so that a name never means two things. Raises InputError when a started node has no
    place in the new bracket, for leaves that are there already, and for kind "explicit".
    """
    _check_addition(bracket, kind, added, started)
    leaves = (*bracket.leaves, *added)
    # No leaf's name may hold a NUL, so these names for the time being meet no other.
    laid = _LAYOUTS[kind](leaves, (f"\0{number}" for number in count()))
    extended = _with_known_names(laid, bracket, _fresh_names(bracket, leaves, first))
    kept = {node.output for node in extended.nodes}
    lost = [node.output for node in bracket.nodes if node.output in started and node.output not in kept]
    if lost:
        raise InputError(
            f"{', '.join(lost)} began already and would not be in the bracket of all {len(leaves)} leaves; "
            "submit a new job with all leaves, or use the kind sequential, to which leaves can always be "
            "added"
        )
    return _checked(extended)


def seeded_by_score(leaves: Sequence[str], scores: Mapping[str, float]) -> tuple[str, ...]:
    """The leaves from best to worst, equal ones in the given order.

    Neighbours are merged first: so the good meet the good early, the search of a pair is not spent on
    outweighing a poor partner, and the order in which somebody named the files plays no part. In a
    sequential bracket the best leaves come first and the worst can do the least harm, though each later
    leaf has the more to outweigh. scores: leaf -> score, higher is better. Raises InputError for a leaf
    without a score and for a NaN.
    """
    missing = [leaf for leaf in leaves if leaf not in scores]
    if missing:
        raise InputError(f"no score for leaf {', '.join(missing)}; score every leaf, or seed another way")
    _check_scores({leaf: scores[leaf] for leaf in leaves}, leaves)
    return tuple(sorted(leaves, key=lambda leaf: -scores[leaf]))


def seeded_by_distance(
    leaves: Sequence[str], distances: Mapping[tuple[str, str], float] | NDArray[np.floating]
) -> tuple[str, ...]:
    """The leaves so that the closest are neighbours; an odd one out comes last.

    The closest two that are free are taken again and again, of equal ones the earlier in the given order.
    Near models are seldom parted by a barrier of the loss (linear mode connectivity, Frankle et al. 2020), so
    little is lost where most merges are made; and fine-tunes of one source become one model before they meet
    the others. distances: of every two leaves, as a mapping (x, y) -> distance with either order of the two,
    or an array (N, N) in the order of `leaves`; 0 or more, in any unit. Raises InputError for a distance that
    is missing, negative or NaN, an array of another shape, and one that is not symmetric.
    """
    leaves = tuple(leaves)
    found = _distances_of_pairs(leaves, distances)
    order: list[int] = []
    for pair in sorted(found, key=lambda pair: (found[pair], pair)):
        if not set(pair) & set(order):
            order.extend(pair)
    order.extend(index for index in range(len(leaves)) if index not in order)
    return tuple(leaves[index] for index in order)


def check(bracket: Bracket) -> None:
    """Raise InputError, naming the row and the remedy, unless every leaf is merged once and into one model.

    Refused are: fewer than two leaves or one named twice; names that the text form cannot hold; two rows of
    one output, or an output with a leaf's name; a row that merges a thing with itself; a name that is never
    made, used twice or never used; a pick of leaves, of one candidate, or two picks that share one; a cycle;
    nodes before what they need; more than one final node.
    """
    _check_leaves(bracket.leaves)
    _check_outputs(bracket)
    for node in bracket.nodes:
        _check_row(node, bracket)
    _check_uses(bracket)
    if _in_order(bracket.nodes) != bracket.nodes:
        raise InputError("a node stands before what it needs; make the bracket with `explicit`, which sorts")


def _checked(bracket: Bracket) -> Bracket:
    check(bracket)
    return bracket


# Laying out.


def _lay_balanced(leaves: tuple[str, ...], names: Iterator[str]) -> Bracket:
    nodes: list[BracketNode] = []
    entrants = list(leaves)
    while len(entrants) > 1:
        pairs = zip(entrants[::2], entrants[1::2], strict=False)
        merged = [BracketNode(next(names), a, b) for a, b in pairs]
        outputs = [node.output for node in merged]
        nodes += merged
        if len(entrants) % 2:
            best: Input = Pick(tuple(outputs)) if len(outputs) > 1 else outputs[0]
            extra = BracketNode(next(names), entrants[-1], best)
            nodes.append(extra)
            outputs = [*outputs[1:], extra.output]
        entrants = outputs
    return Bracket(leaves, tuple(nodes))


def _lay_sequential(leaves: tuple[str, ...], names: Iterator[str]) -> Bracket:
    outputs = [*leaves[:1], *(next(names) for _ in leaves[1:])]
    rows = zip(pairwise(outputs), leaves[1:], strict=True)
    return Bracket(leaves, tuple(BracketNode(output, merged, leaf) for (merged, output), leaf in rows))


_LAYOUTS: Mapping[str, Callable[[tuple[str, ...], Iterator[str]], Bracket]] = {
    "balanced": _lay_balanced,
    "sequential": _lay_sequential,
}


def _in_order(nodes: tuple[BracketNode, ...]) -> tuple[BracketNode, ...]:
    """The nodes with what they need before them, and else in the order given."""
    needs = _needs(nodes)
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise InputError(
            f"these rows wait for each other: {cycle}; take one of them out of the circle (whoever mentions "
            "a candidate of a pick waits for all candidates of the pick)"
        ) from error
    waiting = list(nodes)
    ordered: dict[str, BracketNode] = {}
    while waiting:
        ready = next(node for node in waiting if needs[node.output] <= ordered.keys())
        waiting.remove(ready)
        ordered[ready.output] = ready
    return tuple(ordered.values())


def _needs(nodes: tuple[BracketNode, ...]) -> dict[str, set[str]]:
    """Output -> the outputs that must be made before it is known what it merges, and it can be merged."""
    outputs = {node.output for node in nodes}
    rivals = _rivals(nodes)
    needs: dict[str, set[str]] = {}
    for node in nodes:
        mentioned = _names_in(node)
        contested = [rivals[name].candidates for name in mentioned if name in rivals]
        needs[node.output] = outputs & {*mentioned, *chain.from_iterable(contested)}
    return needs


def _rivals(nodes: tuple[BracketNode, ...]) -> dict[Input, Pick]:
    """Name -> the pick that decides what a plain mention of the name stands for."""
    return {name: pick for pick in _picks(nodes) for name in pick.candidates[1:]}


def _picks(nodes: tuple[BracketNode, ...]) -> list[Pick]:
    return [value for node in nodes for value in (node.a, node.b) if isinstance(value, Pick)]


def _names_of(value: Input) -> tuple[str, ...]:
    return value.candidates if isinstance(value, Pick) else (value,)


def _names_in(node: BracketNode) -> tuple[str, ...]:
    return (*_names_of(node.a), *_names_of(node.b))


def _standing(bracket: Bracket, scores: Mapping[str, float]) -> dict[Input, str | None]:
    """What every input that the table mentions stands for; None while its pick is not decided."""
    standing: dict[Input, str | None] = {name: name for node in bracket.nodes for name in _names_in(node)}
    for pick in _picks(bracket.nodes):
        if all(name in scores for name in pick.candidates):
            # max takes the first of equal ones.
            picked = max(pick.candidates, key=lambda name: scores[name])
            standing[pick] = picked
            standing[picked] = pick.candidates[0]
        else:
            standing.update(dict.fromkeys((pick, *pick.candidates)))
    return standing


# Names.


def _names_from(first: str) -> Iterator[str]:
    """201b, 202b, ...: the last number in `first` counts up and keeps its zeros."""
    prefix, digits, suffix = _numbered(first)
    return (f"{prefix}{number:0{len(digits)}d}{suffix}" for number in count(int(digits)))


def _numbered(first: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"(.*?)([0-9]+)([^0-9]*)", first)
    if found is None:
        raise InputError(
            f"first node {first!r} has no number to count up from; give a name such as 01b or 201b"
        )
    _check_name(first)
    return found[1], found[2], found[3]


def _fresh_names(bracket: Bracket, leaves: tuple[str, ...], first: str) -> Iterator[str]:
    prefix, digits, suffix = _numbered(first)
    same_pattern = re.compile(re.escape(prefix) + "([0-9]+)" + re.escape(suffix))
    matches = (same_pattern.fullmatch(node.output) for node in bracket.nodes)
    start = max([int(digits), *(int(match[1]) + 1 for match in matches if match)])
    names = _names_from(f"{prefix}{start:0{len(digits)}d}{suffix}")
    return (name for name in names if name not in leaves)


def _with_known_names(laid: Bracket, known: Bracket, fresh: Iterator[str]) -> Bracket:
    """`laid` with the names of `known` for the nodes that are in both, and fresh ones for the others."""
    own_names = {name: name for node in known.nodes for name in _names_in(node)}
    outputs = {_meanings(node, _rivals(known.nodes), own_names): node.output for node in known.nodes}
    names = {leaf: leaf for leaf in laid.leaves}
    rivals = _rivals(laid.nodes)
    nodes: list[BracketNode] = []
    for node in laid.nodes:
        names[node.output] = outputs.get(_meanings(node, rivals, names)) or next(fresh)
        nodes.append(BracketNode(names[node.output], _renamed(node.a, names), _renamed(node.b, names)))
    return Bracket(laid.leaves, tuple(nodes))


def _meanings(
    node: BracketNode, rivals: Mapping[Input, Pick], names: Mapping[str, str]
) -> tuple[tuple[Input, ...], ...]:
    """Each input with the pick that may put another in its place: without it the name says too little."""
    inputs = ((value, rivals[value]) if value in rivals else (value,) for value in (node.a, node.b))
    return tuple(tuple(_renamed(value, names) for value in values) for values in inputs)


def _renamed(value: Input, names: Mapping[str, str]) -> Input:
    if isinstance(value, Pick):
        return Pick(tuple(names[name] for name in value.candidates))
    return names[value]


# Reading and checking.


def _parse_row(number: int, row: Mapping[str, object]) -> BracketNode:
    if not isinstance(row, Mapping):
        raise InputError(f"row {number} of the bracket is {row!r}; write it as {{o: 01b, a: one, b: two}}")
    cells = {str(key).lower(): value for key, value in row.items()}
    if sorted(cells) != ["a", "b", "o"] or len(row) != 3:
        raise InputError(
            f"row {number} of the bracket has {', '.join(map(str, row)) or 'nothing'}; give o, a and b, no "
            "more and no less"
        )
    for key, value in cells.items():
        if not isinstance(value, str):
            raise InputError(f"row {number} of the bracket: {key} is {value!r}, no text; put it in quotes")
    try:
        output, a, b = (parse_input(str(cells[key])) for key in "oab")
    except InputError as error:
        raise InputError(f"row {number} of the bracket: {error}") from error
    if isinstance(output, Pick):
        raise InputError(f"row {number} of the bracket: o is {cells['o']}; name the one node that it makes")
    return BracketNode(output, a, b)


def _check_plain(name: str) -> None:
    if not name or name != name.strip() or "\0" in name or name.startswith("best("):
        raise InputError(
            f"{name!r} cannot be a name in a bracket: it is empty, begins or ends with a space, or reads as "
            "a pick, which is written best(206b,207b); correct it, or rename that file"
        )


def _check_name(name: str) -> None:
    if not name or name != name.strip() or any(mark in name for mark in "(),"):
        raise InputError(
            f"{name!r} cannot be a node's name: it is empty, begins or ends with a space, or has a "
            "parenthesis or comma; rename it (a pick is written best(206b,207b))"
        )


def _check_leaves(leaves: tuple[str, ...]) -> None:
    if len(leaves) < 2:
        raise InputError(f"a bracket needs two leaves or more, not {len(leaves)}; add models to merge")
    for name, times in Counter(leaves).items():
        _check_plain(name)
        if times > 1:
            raise InputError(f"leaf {name} is named {times} times; name every leaf once")


def _check_outputs(bracket: Bracket) -> None:
    for name, times in Counter(node.output for node in bracket.nodes).items():
        _check_name(name)
        if times > 1:
            raise InputError(f"{times} rows have the output {name}; give each row an output of its own")
        if name in bracket.leaves:
            raise InputError(
                f"row {name}: a leaf has the same name; number the nodes from another first name"
            )


def _check_row(node: BracketNode, bracket: Bracket) -> None:
    row = f"row {node.output}"
    if node.a == node.b:
        raise InputError(f"{row} merges {input_text(node.a)} with itself; name two different inputs")
    known = {*bracket.leaves, *(other.output for other in bracket.nodes)}
    for name in _names_in(node):
        if name not in known:
            raise InputError(
                f"{row} uses {name}, which is neither a leaf nor the output of a row; correct the name or "
                "add what is missing"
            )
    for pick in _picks((node,)):
        if len(set(pick.candidates)) < 2 or len(set(pick.candidates)) < len(pick.candidates):
            raise InputError(f"{row}: {input_text(pick)} needs two or more different candidates")
        leaves = [name for name in pick.candidates if name in bracket.leaves]
        if leaves:
            raise InputError(
                f"{row}: {input_text(pick)} has the leaf {leaves[0]}, which has no score; only nodes can be "
                "picked from"
            )


def _check_uses(bracket: Bracket) -> None:
    """As if the first candidate of every pick were picked, everything but the final node is used once."""
    users: dict[str, list[str]] = {name: [] for name in bracket.leaves}
    users.update({node.output: [] for node in bracket.nodes})
    candidates: dict[str, list[str]] = {}
    for node in bracket.nodes:
        for value in (node.a, node.b):
            users[_names_of(value)[0]].append(node.output)
        for name in (name for pick in _picks((node,)) for name in pick.candidates):
            candidates.setdefault(name, []).append(node.output)
    for name, rows in candidates.items():
        if len(rows) > 1:
            raise InputError(
                f"{name} is a candidate of two picks, in rows {' and '.join(rows)}; let each node be a "
                "candidate of one pick at most"
            )
    _check_used_once(users, bracket)


def _check_used_once(users: Mapping[str, list[str]], bracket: Bracket) -> None:
    for name, rows in users.items():
        if len(rows) > 1:
            what = "leaf " if name in bracket.leaves else ""
            raise InputError(
                f"{what}{name} is used {len(rows)} times, in rows {' and '.join(rows)}; use everything once "
                "(the first candidate of a pick counts as used, the others are used elsewhere)"
            )
    unused = [name for name, rows in users.items() if not rows]
    leaves = [name for name in unused if name in bracket.leaves]
    if leaves:
        raise InputError(f"leaf {', '.join(leaves)} is never used; add a row for it or take it out")
    if len(unused) > 1:
        raise InputError(
            f"the table ends in {len(unused)} models, {', '.join(unused)}; merge them in further rows"
        )


def _check_scores(scores: Mapping[str, float], known: Sequence[str]) -> None:
    for name, score in scores.items():
        if name not in known:
            raise InputError(f"a score of {name}, which is none of {', '.join(known)}; correct the name")
        if math.isnan(score):
            raise InputError(f"the score of {name} is NaN, which is neither better nor worse; score it again")


def _check_addition(bracket: Bracket, kind: Kind, added: Sequence[str], started: Collection[str]) -> None:
    if kind == "explicit":
        raise InputError(
            "leaves cannot be added to an explicit table, which says no place for them; submit a new job "
            "with the longer table"
        )
    if not added:
        raise InputError("no leaves to add; name one or more")
    outputs = [node.output for node in bracket.nodes]
    for name in added:
        if name in bracket.leaves:
            raise InputError(f"leaf {name} is in the bracket already; name only new ones")
        if name in outputs:
            raise InputError(f"leaf {name} has the name of a node of the bracket; rename the model")
    unknown = [name for name in started if name not in outputs]
    if unknown:
        raise InputError(f"no node {', '.join(unknown)} in the bracket; its nodes are {', '.join(outputs)}")
    _check_leaves((*bracket.leaves, *added))


def _distances_of_pairs(
    leaves: tuple[str, ...], distances: Mapping[tuple[str, str], float] | NDArray[np.floating]
) -> dict[tuple[int, int], float]:
    """(i, j) with i < j -> distance."""
    if not isinstance(distances, Mapping):
        return _distances_of_array(leaves, distances)
    found = {}
    for i, j in combinations(range(len(leaves)), 2):
        ways = [pair for pair in ((leaves[i], leaves[j]), (leaves[j], leaves[i])) if pair in distances]
        found[i, j] = _agreed(leaves[i], leaves[j], [distances[pair] for pair in ways])
    return found


def _distances_of_array(
    leaves: tuple[str, ...], distances: NDArray[np.floating]
) -> dict[tuple[int, int], float]:
    if distances.shape != (len(leaves), len(leaves)):
        raise InputError(
            f"distances have the shape {distances.shape}; {len(leaves)} leaves need "
            f"({len(leaves)}, {len(leaves)})"
        )
    return {
        (i, j): _agreed(leaves[i], leaves[j], [float(distances[i, j]), float(distances[j, i])])
        for i, j in combinations(range(len(leaves)), 2)
    }


def _agreed(x: str, y: str, found: Sequence[float]) -> float:
    # Written so that NaN fails too.
    if not found or found[0] != found[-1] or not found[0] >= 0:
        raise InputError(
            f"the distance of {x} and {y} is {' and '.join(map(str, found)) or 'missing'}; give one number, "
            "0 or more, the same in both directions"
        )
    return found[0]
