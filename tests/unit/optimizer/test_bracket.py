"""The bracket: the published ten-leaf table, what a pick does, and what must hold for any leaves."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.bracket import (
    Bracket,
    BracketNode,
    Pick,
    balanced,
    check,
    explicit,
    input_text,
    levels,
    parse_input,
    resolve,
    seeded_by_distance,
    seeded_by_score,
    sequential,
    table,
    with_leaves,
)
from scoring.errors import InputError

TEN = ("_202a", "_204a", "_210a", "_220a", "_211a", "_218a", "_221a", "_222a", "_219a", "_223a")
# AstolfoMix-SD2, "pick the best".
TEN_ROWS = [
    {"o": "201b", "a": "_202a", "b": "_204a"},
    {"o": "202b", "a": "_210a", "b": "_220a"},
    {"o": "203b", "a": "_211a", "b": "_218a"},
    {"o": "204b", "a": "_221a", "b": "_222a"},
    {"o": "205b", "a": "_219a", "b": "_223a"},
    {"o": "206b", "a": "201b", "b": "202b"},
    {"o": "207b", "a": "203b", "b": "204b"},
    {"o": "208b", "a": "205b", "b": "best(206b,207b)"},
    {"o": "209b", "a": "207b", "b": "208b"},
]
FIVE_DONE = {"201b": 0.1, "202b": 0.2, "203b": 0.3, "204b": 0.4, "205b": 0.5}

names = st.text(
    st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=8
).filter(lambda name: name == name.strip() and not name.endswith("b") and not name.startswith("best("))
leaf_lists = st.lists(names, min_size=2, max_size=40, unique=True)
brackets = st.builds(lambda leaves, lay: lay(leaves), leaf_lists, st.sampled_from([balanced, sequential]))


def rows(text: str) -> list[dict[str, str]]:
    """`n1=a+b; n2=n1+c` as rows."""
    cells = [row.replace("+", "=").split("=") for row in text.replace(" ", "").split(";")]
    return [{"o": o, "a": a, "b": b} for o, a, b in cells]


def row_of(bracket: Bracket, output: str) -> dict[str, str]:
    return next(row for row in table(bracket) if row["o"] == output)


def played(bracket: Bracket, random_source: random.Random) -> dict[str, tuple[str, str]]:
    """The job, simulated: again and again one of the nodes that can be made is made, with a random score."""
    scores: dict[str, float] = {}
    while len(scores) < len(bracket.nodes):
        ready = resolve(bracket, scores).keys() - scores.keys()
        assert ready, f"stuck at {scores.keys()}"
        scores[random_source.choice(sorted(ready))] = random_source.choice([0.0, 0.5, random_source.random()])
    return resolve(bracket, scores)


class TestBalanced:
    def test_ten_leaves_are_the_published_table(self) -> None:
        assert table(balanced(TEN, first="201b")) == TEN_ROWS

    def test_the_documentation_shows_the_same_table(self) -> None:
        page = (Path(__file__).parents[3] / "docs" / "bracket.md").read_text(encoding="utf-8")
        bracket = balanced(TEN, first="201b")
        for row in table(bracket):
            assert f"| {row['o']} | {row['a']} | {row['b']} | {levels(bracket)[row['o']]} |\n" in page

    def test_a_power_of_two_needs_no_pick(self) -> None:
        assert table(balanced("abcd", first="n1")) == rows("n1=a+b; n2=c+d; n3=n1+n2")

    def test_with_three_the_last_waits_for_the_one_output_and_is_a(self) -> None:
        assert table(balanced("abc", first="n1")) == rows("n1=a+b; n2=c+n1")

    def test_seven_pick_among_three_and_the_next_round_has_the_others_first(self) -> None:
        assert table(balanced("abcdefg", first="n1")) == rows(
            "n1=a+b; n2=c+d; n3=e+f; n4=g+best(n1,n2,n3); n5=n2+n3; n6=n4+n5"
        )

    @given(leaf_lists)
    def test_every_leaf_is_in_one_row_and_merges_are_one_less_than_leaves(self, leaves: list[str]) -> None:
        bracket = balanced(leaves)
        cells = Counter(cell for node in bracket.nodes for cell in (node.a, node.b))
        assert bracket.leaves == tuple(leaves)
        assert [cells[leaf] for leaf in leaves] == [1] * len(leaves)
        assert len(bracket.nodes) == len(leaves) - 1

    @given(leaf_lists)
    def test_it_is_no_deeper_than_two_levels_a_round(self, leaves: list[str]) -> None:
        rounds = (len(leaves) - 1).bit_length()
        assert rounds <= max(levels(balanced(leaves)).values()) <= 2 * rounds


class TestSequential:
    def test_leaves_come_in_one_after_the_other(self) -> None:
        assert table(sequential("abcd", first="n1")) == rows("n1=a+b; n2=n1+c; n3=n2+d")

    def test_two_leaves_are_the_same_in_both_kinds(self) -> None:
        assert sequential("ab") == balanced("ab")


class TestText:
    @given(brackets)
    def test_a_table_read_again_is_the_same_bracket(self, bracket: Bracket) -> None:
        assert explicit(table(bracket)) == bracket
        assert explicit(table(bracket), bracket.leaves) == bracket

    @given(brackets, st.randoms(use_true_random=False))
    def test_rows_may_come_in_any_order(self, bracket: Bracket, shuffler: random.Random) -> None:
        shuffled = table(bracket)
        shuffler.shuffle(shuffled)
        read = explicit(shuffled, bracket.leaves)
        check(read)
        assert set(read.nodes) == set(bracket.nodes)
        assert read.nodes[-1] == bracket.nodes[-1]

    def test_an_input_is_a_name_or_a_pick(self) -> None:
        assert parse_input("206b") == "206b"
        assert parse_input("best(206b, 207b)") == Pick(("206b", "207b"))
        assert input_text(Pick(("206b", "207b"))) == "best(206b,207b)"
        assert parse_input("the best of two") == "the best of two"

    def test_headings_may_be_capitals(self) -> None:
        assert explicit([{"O": "01b", "A": "x", "B": "y"}]) == balanced("xy")

    def test_leaves_are_what_no_row_makes_in_the_order_of_the_rows(self) -> None:
        assert explicit(rows("n2=n1+z; n1=y+x")).leaves == ("z", "y", "x")

    @pytest.mark.parametrize(
        ("row", "words"),
        [
            ({"o": "n1", "a": "x"}, "row 1 .* has o, a; give o, a and b"),
            ({"o": "n1", "a": "x", "b": "y", "weight": "1"}, "has o, a, b, weight; give"),
            ({"o": "n1", "a": "x", "b": "y", "B": "z"}, "has o, a, b, B; give"),
            ({}, "row 1 .* has nothing"),
            ("n1 = x + y", "row 1 .* is 'n1 = x \\+ y'; write it as {o:"),
            ({"o": 1, "a": "x", "b": "y"}, "o is 1, no text; put it in quotes"),
            ({"o": "best(n1,n2)", "a": "x", "b": "y"}, r"o is best\(n1,n2\); name the one node"),
            ({"o": "n 1,", "a": "x", "b": "y"}, "'n 1,' cannot be a node's name"),
            ({"o": "n1", "a": "x", "b": "best(206b"}, r"'best\(206b' cannot be a name"),
            ({"o": "n1", "a": "x", "b": "best(206b,)"}, "'' cannot be a node's name"),
        ],
    )
    def test_a_row_of_another_form_is_named(self, row: Mapping[str, object], words: str) -> None:
        with pytest.raises(InputError, match=words):
            explicit([row])


class TestResolve:
    """208b = 205b + best(206b,207b); 209b = 207b + 208b: what does each merge?"""

    bracket = balanced(TEN, first="201b")

    def test_at_first_only_nodes_of_leaves_can_be_made(self) -> None:
        assert resolve(self.bracket, {}) == {
            "201b": ("_202a", "_204a"),
            "202b": ("_210a", "_220a"),
            "203b": ("_211a", "_218a"),
            "204b": ("_221a", "_222a"),
            "205b": ("_219a", "_223a"),
        }

    def test_nodes_wait_for_their_pick(self) -> None:
        half = resolve(self.bracket, {**FIVE_DONE, "206b": 0.7})
        assert half.keys() == {*FIVE_DONE, "206b", "207b"}

    def test_the_first_candidate_is_better(self) -> None:
        scores = {**FIVE_DONE, "206b": 0.7, "207b": 0.6}
        assert resolve(self.bracket, scores)["208b"] == ("205b", "206b")
        assert resolve(self.bracket, {**scores, "208b": 0.8})["209b"] == ("207b", "208b")

    def test_another_candidate_is_better_and_changes_places_with_the_first(self) -> None:
        scores = {**FIVE_DONE, "206b": 0.6, "207b": 0.7}
        assert resolve(self.bracket, scores)["208b"] == ("205b", "207b")
        assert resolve(self.bracket, {**scores, "208b": 0.8})["209b"] == ("206b", "208b")

    def test_of_equal_candidates_the_earlier_is_picked(self) -> None:
        equal = resolve(self.bracket, {**FIVE_DONE, "206b": 0.7, "207b": 0.7})
        assert equal["208b"] == ("205b", "206b")

    def test_a_loser_may_be_merged_before_the_winner(self) -> None:
        """Of seven leaves, n5 = n2+n3 does not wait for n4 = g+best(n1,n2,n3)."""
        bracket = balanced("abcdefg", first="n1")
        pairs = resolve(bracket, {"n1": 1, "n2": 2, "n3": 3})
        assert (pairs["n4"], pairs["n5"]) == (("g", "n3"), ("n2", "n1"))

    def test_the_better_of_two_may_be_merged_with_the_worse(self) -> None:
        bracket = explicit(rows("n1=a+b; n2=c+d; n3=best(n1,n2)+n2"))
        assert resolve(bracket, {"n1": 1, "n2": 2})["n3"] == ("n2", "n1")

    @given(brackets, st.randoms(use_true_random=False))
    def test_under_any_scores_all_is_merged_once_into_the_final_node(
        self, bracket: Bracket, scorer: random.Random
    ) -> None:
        pairs = played(bracket, scorer)
        final = bracket.nodes[-1].output
        merged = [name for pair in pairs.values() for name in pair]
        assert Counter(merged) == Counter([*bracket.leaves, *pairs.keys() - {final}])

    @given(brackets, st.randoms(use_true_random=False))
    def test_what_a_node_merges_never_changes_as_scores_come_in(
        self, bracket: Bracket, scorer: random.Random
    ) -> None:
        """A node may be started as soon as it is in the result."""
        scores: dict[str, float] = {}
        before = resolve(bracket, scores)
        for node in bracket.nodes:
            scores[node.output] = scorer.random()
            after = resolve(bracket, scores)
            assert before.items() <= after.items()
            before = after

    def test_nan_is_an_error(self) -> None:
        with pytest.raises(InputError, match="the score of 201b is NaN"):
            resolve(self.bracket, {"201b": float("nan")})

    def test_a_score_of_something_else_is_an_error(self) -> None:
        with pytest.raises(InputError, match="a score of 301b, which is none of 201b, 202b"):
            resolve(self.bracket, {"301b": 1.0})


class TestLevels:
    def test_a_node_lies_above_all_it_waits_for(self) -> None:
        assert levels(balanced(TEN, first="201b")) == {
            **dict.fromkeys(FIVE_DONE, 1),
            "206b": 2,
            "207b": 2,
            "208b": 3,
            "209b": 4,
        }

    def test_a_sequence_is_as_high_as_long(self) -> None:
        assert list(levels(sequential("abcd")).values()) == [1, 2, 3]


class TestNodeNames:
    @pytest.mark.parametrize(
        ("first", "expected"),
        [
            ("201b", ["201b", "202b", "203b"]),
            ("08b", ["08b", "09b", "10b"]),
            ("99", ["99", "100", "101"]),
            ("n1", ["n1", "n2", "n3"]),
            ("sd2-009", ["sd2-009", "sd2-010", "sd2-011"]),
        ],
    )
    def test_the_last_number_counts_up_and_keeps_its_zeros(self, first: str, expected: list[str]) -> None:
        assert [row["o"] for row in table(sequential("wxyz", first))] == expected

    @pytest.mark.parametrize(("first", "words"), [("final", "no number"), ("(1)", r"'\(1\)' cannot be")])
    def test_a_first_name_that_cannot_count_is_refused(self, first: str, words: str) -> None:
        with pytest.raises(InputError, match=words):
            balanced("ab", first)


class TestWhatIsRefused:
    @pytest.mark.parametrize("leaves", [[], ["x"]])
    def test_too_few_leaves(self, leaves: list[str]) -> None:
        with pytest.raises(InputError, match=f"two leaves or more, not {len(leaves)}"):
            balanced(leaves)

    @pytest.mark.parametrize("name", ["", " x", "x ", "best(x,z)", "best(x"])
    def test_a_leaf_that_the_text_cannot_hold(self, name: str) -> None:
        with pytest.raises(InputError, match="cannot be a name in a bracket"):
            sequential(["y", name])

    def test_a_leaf_may_be_named_as_downloads_are(self) -> None:
        leaves = ["copy (1)", "a, b and c", "(x)"]
        assert explicit(table(balanced(leaves))).leaves == tuple(leaves)

    def test_a_leaf_with_the_name_of_a_node(self) -> None:
        with pytest.raises(InputError, match="row 02b: a leaf has the same name; number the nodes from"):
            balanced(["x", "02b", "y"])

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("n1=a+b; n2=n1+a", "leaf a is used 2 times, in rows n1 and n2"),
            ("n1=a+b; n2=n1+c; n3=n1+n2", "n1 is used 2 times, in rows n2 and n3"),
            ("n1=a+b; n1=c+d", "2 rows have the output n1"),
            ("n1=a+b; n2=n1+c; n1=n2+d", "2 rows have the output n1"),
            ("n1=a+a; n2=n1+b", "row n1 merges a with itself"),
            ("n1=a+b; n2=c+d", "ends in 2 models, n1, n2; merge them in further rows"),
            ("n1=a+n2; n2=b+n3; n3=c+n1", "wait for each other: n1 -> n2 -> n3 -> n1; take one"),
            ("n1=a+n1", "wait for each other: n1 -> n1;"),
            ("n1=a+b; n2=c+best(n1); n3=n1+n2", r"row n2: best\(n1\) needs two or more different"),
            ("n1=a+b; n2=c+best(n1,n1)", r"row n2: best\(n1,n1\) needs two or more different"),
            ("n1=a+b; n2=c+best(n1,d); n3=n2+d", r"row n2: best\(n1,d\) has the leaf d, which has no score"),
            ("n1=a+b; n2=c+d; n3=e+best(n1,n2)", "ends in 2 models, n2, n3"),
            (
                "n1=a+b; n2=c+d; n3=e+f; n4=g+best(n1,n2); n5=h+best(n3,n2); n6=n2+n4; n7=n5+n6",
                "n2 is a candidate of two picks, in rows n4 and n5",
            ),
            ("n1=a+b; n2=c+d; n3=e+best(n1,n2); n4=n1+n3", "n1 is used 2 times, in rows n3 and n4"),
            # n4 may be made of n1 instead of n2, so it cannot run for the pick that decides it.
            ("n1=a+b; n2=c+d; n4=n2+e; n5=f+best(n1,n2,n4); n6=n4+n5", "wait for each other: n4 -> n4"),
        ],
    )
    def test_a_table_that_is_no_bracket(self, text: str, words: str) -> None:
        with pytest.raises(InputError, match=words):
            explicit(rows(text))

    @pytest.mark.parametrize(
        ("leaves", "words"),
        [
            ("abd", "row n2 uses c, which is neither a leaf nor the output of a row"),
            ("abcd", "leaf d is never used; add a row for it or take it out"),
            ("abcc", "leaf c is named 2 times"),
        ],
    )
    def test_a_table_that_does_not_fit_the_listed_leaves(self, leaves: str, words: str) -> None:
        with pytest.raises(InputError, match=words):
            explicit(rows("n1=a+b; n2=n1+c"), leaves)

    def test_nodes_put_together_by_hand_in_the_wrong_order(self) -> None:
        nodes = (BracketNode("n2", "n1", "c"), BracketNode("n1", "a", "b"))
        with pytest.raises(InputError, match="before what it needs"):
            check(Bracket(("a", "b", "c"), nodes))


class TestAddedLeaves:
    bracket = balanced(TEN, first="201b")

    def test_pairs_of_leaves_keep_their_names_and_the_rest_is_numbered_anew(self) -> None:
        longer = with_leaves(self.bracket, "balanced", ["x"], ["201b", "205b"], first="201b")
        assert table(longer) == [
            *TEN_ROWS[:5],
            {"o": "210b", "a": "x", "b": "best(201b,202b,203b,204b,205b)"},
            {"o": "211b", "a": "202b", "b": "203b"},
            {"o": "212b", "a": "204b", "b": "205b"},
            {"o": "213b", "a": "210b", "b": "best(211b,212b)"},
            {"o": "214b", "a": "212b", "b": "213b"},
        ]

    def test_a_started_node_that_has_no_place_any_more_is_named(self) -> None:
        with pytest.raises(
            InputError, match=r"206b began already .* 11 leaves; submit a new job .* sequential"
        ):
            with_leaves(self.bracket, "balanced", ["x"], ["201b", "206b"])

    def test_a_node_is_another_one_when_a_pick_may_put_another_in_its_place(self) -> None:
        """In the longer bracket n2+n3 is again a row, but n2 there stands for the one that was not picked."""
        old = explicit(rows("n1=a+b; n2=c+d; n3=e+f; n4=n2+n3; n5=n1+n4"))
        longer = with_leaves(old, "balanced", ["g"], ["n1", "n2", "n3"], first="n1")
        assert row_of(longer, "n6") == {"o": "n6", "a": "g", "b": "best(n1,n2,n3)"}
        assert row_of(longer, "n7") == {"o": "n7", "a": "n2", "b": "n3"}
        with pytest.raises(InputError, match="n4 began already"):
            with_leaves(old, "balanced", ["g"], ["n4"], first="n1")

    def test_a_sequence_goes_on_whatever_has_started(self) -> None:
        old = sequential("abc", first="n1")
        longer = with_leaves(old, "sequential", ["d", "e"], ["n1", "n2"], first="n1")
        assert table(longer) == rows("n1=a+b; n2=n1+c; n3=n2+d; n4=n3+e")

    def test_a_fresh_name_is_no_leaf_s_name(self) -> None:
        longer = with_leaves(sequential("ab", first="n1"), "sequential", ["n2"], [], first="n1")
        assert table(longer) == rows("n1=a+b; n3=n1+n2")

    @given(leaf_lists, st.data())
    def test_a_name_never_means_two_things(self, leaves: list[str], data: st.DataObject) -> None:
        """However the leaves come in, group by group."""
        cuts = sorted(data.draw(st.sets(st.integers(2, len(leaves)), min_size=1)))
        bracket = balanced(leaves[: cuts[0]])
        known = meanings(bracket)
        for start, end in pairwise(cuts):
            bracket = with_leaves(bracket, "balanced", leaves[start:end], [])
            assert bracket.leaves == tuple(leaves[:end])
            for output, meaning in meanings(bracket).items():
                assert known.setdefault(output, meaning) == meaning

    @given(leaf_lists)
    def test_started_pairs_of_leaves_keep_their_place(self, leaves: list[str]) -> None:
        bracket = balanced(leaves)
        pairs = [node for node in bracket.nodes if {node.a, node.b} <= set(leaves)]
        longer = with_leaves(bracket, "balanced", ["one more"], [node.output for node in pairs])
        assert set(pairs) <= set(longer.nodes)

    @pytest.mark.parametrize(
        ("kind", "added", "started", "words"),
        [
            ("explicit", ["x"], [], "submit a new job with the longer table"),
            ("balanced", [], [], "no leaves to add"),
            ("balanced", ["_202a"], [], "leaf _202a is in the bracket already"),
            ("balanced", ["206b"], [], "leaf 206b has the name of a node"),
            ("balanced", ["x", "x"], [], "leaf x is named 2 times"),
            ("balanced", ["x"], ["301b"], "no node 301b in the bracket"),
        ],
    )
    def test_what_cannot_be_added_is_named(
        self, kind: str, added: list[str], started: list[str], words: str
    ) -> None:
        with pytest.raises(InputError, match=words):
            with_leaves(self.bracket, kind, added, started)  # type: ignore[arg-type]


def meanings(bracket: Bracket) -> dict[str, str]:
    """Node -> all that it comes from, written out."""
    found = {leaf: leaf for leaf in bracket.leaves}
    for node in bracket.nodes:
        a, b = (
            "best" + str([found[name] for name in value.candidates])
            if isinstance(value, Pick)
            else found[value]
            for value in (node.a, node.b)
        )
        found[node.output] = f"({a} + {b})"
    return {node.output: found[node.output] for node in bracket.nodes}


class TestSeeding:
    def test_by_score_the_best_come_first_and_equal_ones_as_given(self) -> None:
        assert seeded_by_score("abcd", {"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.9}) == ("b", "d", "c", "a")

    @pytest.mark.parametrize(
        ("scores", "words"),
        [({"a": 1.0}, "no score for leaf b;"), ({"a": 1.0, "b": float("nan")}, "the score of b is NaN")],
    )
    def test_by_score_every_leaf_needs_one(self, scores: dict[str, float], words: str) -> None:
        with pytest.raises(InputError, match=words):
            seeded_by_score("ab", scores)

    def test_by_distance_the_closest_two_are_neighbours_again_and_again(self) -> None:
        places = {"a": 0.0, "b": 10.0, "c": 1.0, "d": 10.5, "e": 3.0}
        distances = {(x, y): abs(places[x] - places[y]) for x in places for y in places}
        # b and d are 0.5 apart, a and c 1, and e is left over.
        assert seeded_by_distance("abcde", distances) == ("b", "d", "a", "c", "e")

    def test_by_distance_equal_ones_as_given(self) -> None:
        assert seeded_by_distance("abcd", np.ones((4, 4))) == ("a", "b", "c", "d")

    def test_by_distance_one_order_of_the_two_is_enough(self) -> None:
        one_order = {("b", "a"): 3.0, ("a", "c"): 1.0, ("c", "b"): 2.0}
        assert seeded_by_distance("abc", one_order) == ("a", "c", "b")

    @given(st.integers(2, 12), st.randoms(use_true_random=False))
    def test_by_distance_loses_none_and_an_array_says_the_same_as_a_mapping(
        self, count: int, source: random.Random
    ) -> None:
        leaves = [f"leaf-{number}" for number in range(count)]
        array = np.array([[source.random() for _ in leaves] for _ in leaves])
        array += array.T
        mapping = {(x, y): array[i, j] for i, x in enumerate(leaves) for j, y in enumerate(leaves)}
        seeded = seeded_by_distance(leaves, array)
        assert sorted(seeded) == sorted(leaves)
        assert seeded == seeded_by_distance(leaves, mapping)

    @pytest.mark.parametrize(
        ("distances", "words"),
        [
            ({}, "distance of a and b is missing"),
            ({("a", "b"): 1.0, ("b", "a"): 2.0}, "distance of a and b is 1.0 and 2.0; give one number"),
            ({("a", "b"): float("nan")}, "distance of a and b is nan"),
            ({("a", "b"): -1.0}, "distance of a and b is -1.0"),
            (np.zeros((3, 3)), r"shape \(3, 3\); 2 leaves need \(2, 2\)"),
        ],
    )
    def test_distances_that_cannot_be(self, distances: Mapping[tuple[str, str], float], words: str) -> None:
        with pytest.raises(InputError, match=words):
            seeded_by_distance("ab", distances)
