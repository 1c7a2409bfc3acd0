"""Errors become one line and an exit code, in one place."""

from __future__ import annotations

import pytest

REFUSED = [
    ("analyse", "no such command 'analyse'. Did you mean 'analyze'?"),
    ("analyze lstn", "unknown model 'lstn'; did you mean 'lstm'?"),
    ("analyze lstn:forget_bias=5", "unknown model 'lstn'; did you mean 'lstm'?"),
    ("analyze lstm:5", "model option '5' of lstm has no value"),
    ("analyze rnn gru", "got unexpected extra argument"),
    ("analyze --lenght 3", "no such option: --lenght"),
    ("analyze --length 0", "length is 0 (--length); it must be at least 2"),
    ("analyze --length 1", "length is 1 (--length); it must be at least 2"),
    ("analyze --length many", "invalid value for '--length'"),
    ("analyze --batch 0", "batch is 0 (--batch); it must be at least 1"),
    ("analyze --hidden 0", "hidden is 0 (--hidden); it must be at least 1"),
    ("analyze --needs-lag 200", "needs_lag is 200 (--needs-lag); over 200 steps it must lie in 1..199"),
    ("analyze --item 8", "item is 8 (--item); of 8 sequences it must lie in 0..7"),
    ("analyze --sequence sin", "unknown sequence 'sin'; did you mean 'sine'?"),
    ("analyze --loss finall", "unknown loss 'finall'; did you mean 'final'?"),
    ("analyze --dtype flaot64", "unknown dtype 'flaot64'; did you mean 'float64'?"),
    ("analyze --device gpu", "unknown device 'gpu'"),
    ("analyze --fail-on errors", "unknown fail-on 'errors'; did you mean 'error'?"),
    ("analyze --weights w.pt", "weights is w.pt (--weights), and nothing here reads it: rnn takes none; leave it out"),
    (
        "sweep rnn --over hidden=3,4 --fix --save out",
        "--fix is about the remedies of one model, and a sweep measures none",
    ),
    ("track ckpt --fix", "--fix is about the remedies of one model, and track measures none; gradscope analyze does"),
    ("analyze --select GS502", "no rule is left to judge: GS502 judges a training run (gradscope track,"),
    ("analyze --select GS9", "unknown rule 'GS9'"),
    ("analyze --show gate", "unknown picture 'gate'; did you mean 'gates'?"),
    ("analyze --format jsn", "unknown format 'jsn'; did you mean 'json'?"),
    ("analyze --color maybe", "unknown color 'maybe'"),
    ("analyze --width 3", "--width 3 is too narrow"),
    ("analyze --steps some", "--steps 'some' is not a choice of steps"),
    ("analyze -o report.pdf", "-o 'report.pdf' has no suffix that names a format"),
    ("analyze -o missing/report.json", "cannot write 'missing/report.json': no such file or directory"),
    ("analyze --threshold many", "thresholds is '['many']' (--threshold); expected name=number"),
    ("compare", "compare needs models; write gradscope compare rnn lstm attention"),
    ("show missing.json", "cannot read 'missing.json': No such file or directory"),
    ("rules --format xml", "unknown format 'xml'"),
]

SMALL = "analyze rnn:hidden=4,init=normal,gain=0.3 --length 20 --batch 2 -q"
JUDGED = [SMALL + rest for rest in (" --needs-lag 15", " --needs-lag 15 --fail-on error")]
JUDGED += [f"{SMALL} --fail-on {level}" for level in ("error", "warning")]
LINES = [words for words, _ in REFUSED] + JUDGED


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[words for words, _ in REFUSED])
def test_wrong_requests_are_one_line_and_exit_2(all_of, words, message):
    done = all_of[words]
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"gradscope: {message}")
    assert done.err.count("\n") == 1


def test_foreign_text_in_a_message_is_made_harmless(gradscope):
    done = gradscope("analyze", "ls\x1b]0;owned\x07tm")
    assert done.code == 2
    assert "\x1b" not in done.err
    assert "\\x1b]0;owned\\x07" in done.err


def broken(error: str, *words: str) -> str:
    """Code that runs gradscope with a rule book that raises `error`."""
    return (
        "import sys, gradscope.rules.texts as book\n"
        f"def fail(code): raise {error}\n"
        "book.explain = fail\n"
        "from gradscope.__main__ import main\n"
        f"sys.exit(main(['explain', 'GS101', *{words!r}]))"
    )


def test_a_bug_is_one_line_and_exit_3(python):
    done = python(broken("RuntimeError('lost\\nthe thread')"))
    assert done.code == 3
    assert done.err == (
        "gradscope: bug in gradscope: RuntimeError: lost\\nthe thread; run again with --debug for the traceback\n"
    )


def test_debug_adds_the_traceback(python):
    done = python(broken("RuntimeError('lost')", "--debug"))
    assert done.code == 3
    assert done.err.startswith("Traceback (most recent call last):")
    assert "RuntimeError: lost\n" in done.err


def test_a_usage_error_has_a_traceback_only_with_debug(gradscope):
    assert "Traceback" not in gradscope("analyze", "lstn").err
    assert "Traceback" in gradscope("analyze", "lstn", "--debug").err


@pytest.mark.parametrize(("error", "code"), [("KeyboardInterrupt", 130), ("SystemExit(4)", 4), ("MemoryError", 3)])
def test_other_ways_out(python, error, code):
    assert python(broken(error)).code == code


def test_findings_decide_the_exit_code_only_when_asked(all_of):
    plain = all_of[f"{SMALL} --needs-lag 15"]
    assert (plain.code, plain.err) == (0, "")
    assert "VANISHING" in plain.out
    assert all_of[f"{SMALL} --needs-lag 15 --fail-on error"].code == 1
    # Without a stated need the same decay only warns.
    assert all_of[f"{SMALL} --fail-on error"].code == 0
    assert all_of[f"{SMALL} --fail-on warning"].code == 1
