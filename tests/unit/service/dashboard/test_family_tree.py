"""A family lies on the page with the oldest to the left and every child between its parents."""

from __future__ import annotations

from optimizer.formats.merge_metadata import Merge, Model
from service.dashboard.family_tree import Member, places
from service.dashboard.recipe_tree import family


def test_a_child_stands_behind_its_last_parent_and_between_them() -> None:
    members = [
        Member("03b", "03b", parents=("02b", "c")),
        Member("a", "a"),
        Member("b", "b"),
        Member("c", "c"),
        Member("02b", "02b", parents=("01b", "b")),
        Member("01b", "01b", parents=("a", "not drawn")),
    ]
    assert places(members) == {
        "a": (0, 0.0),
        "01b": (1, 0.0),
        "b": (0, 1.0),
        "02b": (2, 0.5),
        "c": (0, 2.0),
        "03b": (3, 1.25),
    }


def test_an_ancestor_of_two_has_one_box() -> None:
    base = Model("base", "0" * 64)
    one = Model("one", "1" * 64, merge=Merge("webui", "Weighted sum", (base, Model("x")), 0.3))
    two = Model("two", merge=Merge("webui", "Add difference", (one, base, Model("x"))))
    members, models = family(two)
    assert sorted(member.title for member in members) == ["base", "one", "two", "x", "x"]
    assert [len(places(members)), len(models)] == [5, 5]
    root = next(member for member in members if member.title == "two")
    assert [models[key].title for key in root.parents] == ["one", "base", "x"]
    assert root.line == "Add difference"
