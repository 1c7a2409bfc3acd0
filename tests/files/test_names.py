"""Names that come twice, among any number of names."""

import pytest

from gradscope.files.zip_check import first_twice


@pytest.mark.parametrize(
    ("names", "found"),
    [("", None), ("abc", None), ("abcb", "b"), ("abba", "b"), ("aaa", "a")],
)
def test_the_first_name_that_was_there_before(names: str, found: str | None) -> None:
    assert first_twice(iter(names)) == found


def test_each_name_is_looked_at_once() -> None:
    """A header of 100 MB holds more than a million names: comparing each with all others would never end."""
    compared = []

    class Name(str):
        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Name(f"w{number}") for number in range(20_000)]
    assert first_twice([*names, Name("w19999")]) == "w19999"
    assert len(compared) < 40_000
