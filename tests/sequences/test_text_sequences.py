from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradscope.errors import UsageError
from gradscope.records import RunSpec
from gradscope.sequences.make_batch import make_batch

CAT = "The cat, which was sitting on the mat and looking quite comfortable, was hungry"


def error(spec: RunSpec, input_size: int | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        make_batch(spec, seed=0, input_size=input_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_words_and_punctuation_apart() -> None:
    batch = make_batch(RunSpec(text=CAT), seed=0)
    words = "The cat , which was sitting on the mat and looking quite comfortable , was hungry"
    assert batch.tokens == tuple(words.split(" "))
    assert batch.x.shape == (1, 16, 16)
    assert batch.token_ids is not None
    assert batch.token_ids.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 2, 4, 13]]
    assert batch.token_ids.dtype == torch.int64
    assert batch.notes == ("16 word tokens, 14 distinct; seeded embedding of 16 features",)
    assert batch.source == "text"


@pytest.mark.parametrize(
    ("kind", "text", "tokens"),
    [
        ("word", "Don't stop -- now!", ("Don't", "stop", "-", "-", "now", "!")),
        ("word", "snake_case  3.14\n", ("snake_case", "3", ".", "14")),
        ("word", "cafe\u0301 हिन्दी", ("cafe\u0301", "हिन्दी")),
        ("char", "a b\r\né", ("a", " ", "b", "\\n", "é")),
        ("char", "a\u202eb\x1b", ("a", "\\u202e", "b", "\\x1b")),
        ("byte", "aé\n", ("a", "\\xc3", "\\xa9", "\\n")),
    ],
)
def test_kinds_of_tokens(kind: str, text: str, tokens: tuple[str, ...]) -> None:
    assert make_batch(RunSpec(text=text, tokens=kind), seed=0).tokens == tokens


def test_one_token_one_vector_whatever_stands_around_it() -> None:
    first = make_batch(RunSpec(text="was cat was"), seed=0).x
    other = make_batch(RunSpec(text="the dog was here"), seed=0).x
    assert torch.equal(first[0, 0], first[0, 2])
    assert torch.equal(first[0, 0], other[0, 2])
    assert not torch.equal(first[0, 0], first[0, 1])
    assert not torch.equal(first[0, 0], make_batch(RunSpec(text="was cat was"), seed=1).x[0, 0])


def test_the_embedding_has_unit_variance_and_the_size_the_model_takes() -> None:
    x = make_batch(RunSpec(text="one two three four"), seed=0, input_size=500).x
    assert x.shape == (1, 4, 500)
    assert x.var().item() == pytest.approx(1.0, abs=0.1)


def test_length_takes_the_first_tokens() -> None:
    batch = make_batch(RunSpec(text=CAT, length=3), seed=0)
    assert batch.tokens == ("The", "cat", ",")
    assert batch.vocabulary == ("The", "cat", ",")
    assert batch.notes[1:] == ("first 3 of 16 word tokens",)


def test_batch_takes_consecutive_stretches_and_tokens_are_those_of_the_item() -> None:
    batch = make_batch(RunSpec(text="abcdefgh", tokens="char", batch=2, length=3, item=1), seed=0)
    assert batch.x.shape == (2, 3, 16)
    assert batch.tokens == ("d", "e", "f")
    assert batch.token_ids is not None
    assert batch.token_ids.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert batch.notes[1:] == ("2 consecutive stretches of 3 char tokens", "first 6 of 8 char tokens")


def test_batch_without_length_shares_the_text_out() -> None:
    assert make_batch(RunSpec(text="abcdefg", tokens="char", batch=2), seed=0).x.shape == (2, 3, 16)


def test_a_long_text_is_used_whole(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("ab" * 1500)
    assert make_batch(RunSpec(input=str(path), tokens="char"), seed=0).x.shape == (1, 3000, 16)


@pytest.mark.parametrize("flag", ["text", "input"])
def test_a_txt_file_by_either_flag_with_its_byte_order_mark_dropped(tmp_path: Path, flag: str) -> None:
    path = tmp_path / "my cat.txt"
    path.write_bytes(b"\xef\xbb\xbfThe cat.\r\n")
    spec = RunSpec(text=str(path)) if flag == "text" else RunSpec(input=str(path))
    batch = make_batch(spec, seed=0)
    assert batch.tokens == ("The", "cat", ".")
    assert batch.source == str(path)


def test_byte_tokens_take_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"\xef\xbb\xbfa\xff\x00")
    assert make_batch(RunSpec(input=str(path), tokens="byte"), seed=0).tokens == ("a", "\\xff", "\\x00")


@pytest.mark.parametrize(("mark", "offset"), [(b"", 4), (b"\xef\xbb\xbf", 7)])
def test_text_that_is_not_utf8_names_the_byte(tmp_path: Path, mark: bytes, offset: int) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(mark + b"caf \xe9t\xe9")
    remedy = "save it as UTF-8 or use --tokens byte"
    assert error(RunSpec(input=str(path))) == f"'{path}' is not UTF-8: byte 0xe9 at offset {offset}; {remedy}"


def test_command_line_bytes_that_are_not_utf8() -> None:
    assert error(RunSpec(text="caf\udce9 au")).startswith("the text is not UTF-8: byte 0xe9 at offset 3")
    assert error(RunSpec(text="a \ud800")).startswith("the text is not Unicode: character 2 is a lone surrogate")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            RunSpec(text="a b", tokens="words"),
            "unknown kind of tokens 'words'; did you mean 'word'? (one of: word, char, byte)",
        ),
        (
            RunSpec(text=""),
            "the text has 0 word tokens; at least 2 per sequence are needed, use a longer source",
        ),
        (RunSpec(text=" \n"), "the text has 0 word tokens; at least 2 per sequence are needed, use a longer source"),
        (RunSpec(text="cat"), "the text has 1 word token; at least 2 per sequence are needed, use a longer source"),
        (
            RunSpec(text="hello", length=12),
            "the text has 1 word token; at least 2 per sequence are needed, use a longer source",
        ),
        (RunSpec(text="a b c", length=4), "the text has 3 word tokens, --length 4 needs more; use --length 3 or less"),
        (
            RunSpec(text="a b c d e", length=3, batch=2),
            "the text has 5 word tokens, 2 stretches of 3 need 6; use --length 2 or less",
        ),
        (
            RunSpec(text="a b c d e", length=3, batch=4),
            "the text has 5 word tokens, 4 stretches of 3 need 12; use --batch 1",
        ),
        (RunSpec(text="missing.txt"), "--text 'missing.txt' does not exist; check the path"),
        (RunSpec(input="missing.txt"), "--input 'missing.txt' does not exist; check the path"),
    ],
)
def test_a_wrong_request_is_one_line_with_its_remedy(spec: RunSpec, message: str) -> None:
    assert error(spec) == message


def test_text_for_a_model_without_input() -> None:
    message = "text needs a model with input, this one takes 0 features; leave the text out or raise --input-size"
    assert error(RunSpec(text="a b"), input_size=0) == message


def test_a_sentence_that_ends_in_a_file_name_is_text() -> None:
    assert make_batch(RunSpec(text="see read.txt"), seed=0).tokens == ("see", "read", ".", "txt")


def test_scale_and_columns_beside_text_are_said_to_be_unused() -> None:
    notes = make_batch(RunSpec(text="a b", scale="standard", columns=("a",)), seed=0).notes
    assert notes[1:] == (
        "--columns is for files of numbers, not used here",
        "--scale is for files of numbers, not used here",
    )
