"""Settings: which source wins, where each came from, and what is refused."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from gradscope.__main__ import main
from gradscope.cli.project import config
from gradscope.config import ModelWord, build_spec, parse_model
from gradscope.config.command import command
from gradscope.config.targets import Project, baseline_path, job_count
from gradscope.errors import UsageError
from gradscope.records import Report, RunSpec


def settle(cwd: Path, environ: dict[str, str] | None = None, **flags: object):
    return build_spec(flags, cwd=cwd, environ=environ or {})


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_nothing_given_is_the_default_spec(tmp_path):
    found = settle(tmp_path)
    assert found.spec == RunSpec()
    assert set(found.origin.values()) == {"default"}


def test_flags_beat_variables_beat_gradscope_toml_beats_pyproject_beats_defaults(tmp_path):
    write(
        tmp_path / "pyproject.toml",
        "[project]\nname = 'x'\n[tool.gradscope]\nlength = 11\nbatch = 11\nhidden = 11\nseed = 11\n",
    )
    write(tmp_path / "gradscope.toml", "length = 12\nbatch = 12\nhidden = 12\n")
    found = settle(tmp_path, {"GRADSCOPE_LENGTH": "13", "GRADSCOPE_BATCH": "13"}, length=14)
    spec = found.spec
    assert (spec.length, spec.batch, spec.hidden, spec.seed, spec.layers) == (14, 13, 12, 11, 1)
    names = ("length", "batch", "hidden", "seed", "layers")
    assert [found.origin[name] for name in names] == [
        "--length",
        "GRADSCOPE_BATCH",
        "gradscope.toml:3",
        "pyproject.toml:7",
        "default",
    ]


def test_the_nearest_folder_with_settings_decides_alone(tmp_path):
    write(tmp_path / "gradscope.toml", "length = 11\nseed = 5\n")
    write(tmp_path / "a" / "pyproject.toml", "[tool.gradscope]\nlength = 12\n")
    write(tmp_path / "a" / "b" / "pyproject.toml", "[tool.other]\nlength = 13\n")
    spec = settle(tmp_path / "a" / "b").spec
    assert (spec.length, spec.seed) == (12, 0)


def test_someone_elses_broken_pyproject_is_no_concern(tmp_path):
    write(tmp_path / "pyproject.toml", "this is [not toml")
    assert settle(tmp_path).spec == RunSpec()


@pytest.mark.parametrize("key", ["needs-lag", "needs_lag"])
def test_hyphen_and_underscore_are_the_same(tmp_path, key):
    write(tmp_path / "gradscope.toml", f"{key} = 9\n")
    assert settle(tmp_path).spec.needs_lag == 9


def test_an_empty_variable_and_the_screens_variables_are_left_alone(tmp_path):
    environ = {"GRADSCOPE_LENGTH": "", "GRADSCOPE_FORMAT": "json", "GRADSCOPE_WIDTH": "90", "OTHER": "x"}
    assert settle(tmp_path, environ).spec == RunSpec()


def test_lists_in_every_source(tmp_path):
    write(tmp_path / "gradscope.toml", "models = ['rnn', 'lstm:forget_bias=5,hidden=8']\nselect = ['gs1', 'GS201']\n")
    spec = settle(tmp_path, {"GRADSCOPE_IGNORE": "GS103,GS104", "GRADSCOPE_PAIR": "cat:was#2 mat:was"}).spec
    assert spec.models == ("rnn", "lstm:forget_bias=5,hidden=8")
    assert spec.select == ("GS1", "GS201")
    assert spec.ignore == ("GS103", "GS104")
    assert spec.pair == ("cat:was#2", "mat:was")
    assert settle(tmp_path, {"GRADSCOPE_MODELS": "gru lru:hidden=4,layers=2"}).spec.models == (
        "gru",
        "lru:hidden=4,layers=2",
    )
    assert settle(tmp_path, select=["GS1,GS2"]).spec.select == ("GS1", "GS2")


@pytest.mark.parametrize("flag", [["vanishing-share=0.5", "zero_lags=2"], ["vanishing_share=0.5,zero_lags=2"]])
def test_thresholds_by_flag(tmp_path, flag):
    listed = flag if len(flag) > 1 else flag[0]
    assert settle(tmp_path, thresholds=listed).spec.thresholds == {"vanishing_share": 0.5, "zero_lags": 2.0}


def test_thresholds_in_a_table_of_pyproject(tmp_path):
    write(tmp_path / "pyproject.toml", "[tool.gradscope.thresholds]\nvanishing-share = 1\n")
    found = settle(tmp_path)
    assert found.spec.thresholds == {"vanishing_share": 1.0}
    assert found.origin["thresholds"] == "pyproject.toml:1"


def test_paths_in_a_file_count_from_that_file(tmp_path):
    write(tmp_path / "data" / "x.csv", "a\n")
    write(tmp_path / "loss.py", "")
    write(tmp_path / "gradscope.toml", "input = 'data/x.csv'\nloss = 'loss.py:fn'\nmodels = ['rnn']\n")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    spec = settle(tmp_path / "deep" / "er").spec
    assert (spec.input, spec.loss, spec.models) == ("../../data/x.csv", "../../loss.py:fn", ("rnn",))
    assert settle(tmp_path).spec.input == "data/x.csv"


def test_every_path_of_a_list_in_a_file_counts_from_that_file(tmp_path):
    for name in ("a.py", "b.py", "lib/c.py", "x.npy", "y.npy"):
        write(tmp_path / name, "")
    listed = f"models = 'a.py:Net rnn b.py:Net'\nimport-path = 'lib{os.pathsep}nowhere'\n"
    axes = "over = ['input=x.npy,y.npy', 'length=5,6']\nmodel = 'rnn'\n"
    write(tmp_path / "gradscope.toml", f"{listed}[targets.t]\n{axes}")
    (tmp_path / "sub").mkdir()
    spec = settle(tmp_path / "sub").spec
    assert spec.models == ("../a.py:Net", "rnn", "../b.py:Net")
    assert spec.import_path == ("../lib", "nowhere")
    (asked,) = project(tmp_path / "sub").asked(())
    assert asked.target.over == ("input=../x.npy,../y.npy", "length=5,6")
    assert project(tmp_path).asked(())[0].target.over == ("input=x.npy,y.npy", "length=5,6")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lenght = 3\n", r"unknown setting 'lenght'; did you mean 'length'\? .*\(gradscope.toml:1\)"),
        ("seed = 1\n\nlength = 'x'\n", r"length is 'x' \(gradscope.toml:3\); expected a whole number"),
        ("length = 3.5\n", r"length is '3.5' .*; expected a whole number"),
        ("length = true\n", r"length is 'True' .*; expected a whole number"),
        ("input = 3\n", r"input is '3' .*; expected a text"),
        ("models = []\n", r"models is '\[\]' .*; expected one or more names"),
        ("models = [1]\n", r"models is '\[1\]' .*; expected one or more names"),
        ("needs-lag = 3\nneeds_lag = 4\n", r"needs_lag is set twice, also as 'needs_lag' \(gradscope.toml:2\)"),
        ("[thresholds]\na = 'x'\n", r"thresholds is .* \(gradscope.toml:1\); expected name=number"),
        ("[thresholds]\na = nan\n", r"thresholds is .*; expected name=number, with a finite number"),
        ("length = \n", r"cannot read .*gradscope.toml: Invalid value .*; correct or remove it"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(tmp_path, text, message):
    write(tmp_path / "gradscope.toml", text)
    with pytest.raises(UsageError, match=message):
        settle(tmp_path)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"GRADSCOPE_LENGHT": "3"}, r"unknown setting 'lenght'; did you mean 'length'\? .*\(GRADSCOPE_LENGHT\)"),
        ({"GRADSCOPE_LENGTH": "1e3"}, r"length is '1e3' \(GRADSCOPE_LENGTH\); expected a whole number"),
        ({"GRADSCOPE_LENGTH": "9" * 5000}, "expected a whole number of at most 18 digits"),
        ({"GRADSCOPE_DTYPE": "float46"}, r"unknown dtype 'float46'; did you mean 'float64'\?"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(tmp_path, environ, message):
    with pytest.raises(UsageError, match=message):
        settle(tmp_path, environ)


@pytest.mark.parametrize(
    ("name", "least"),
    [("length", 2), ("batch", 1), ("hidden", 1), ("layers", 1), ("seeds", 1), ("anchors", 1), ("item", 0), ("seed", 0)],
)
def test_the_least_value_passes_and_the_one_below_does_not(tmp_path, name, least):
    assert getattr(settle(tmp_path, **{name: least}).spec, name) == least
    with pytest.raises(UsageError, match=rf"^{name} is {least - 1} \(--{name}\); it must be at least {least}"):
        settle(tmp_path, **{name: least - 1})


def test_the_needed_lag_lies_within_the_known_length(tmp_path):
    assert settle(tmp_path, needs_lag=199).spec.needs_lag == 199
    assert settle(tmp_path, needs_lag=9, length=10).spec.needs_lag == 9
    assert settle(tmp_path, needs_lag=5000, input="unread.csv").spec.needs_lag == 5000
    assert settle(tmp_path, needs_lag=5000, models=["chain.npy"]).spec.needs_lag == 5000
    for flags in ({"needs_lag": 0}, {"needs_lag": 200}, {"needs_lag": 10, "length": 10}):
        with pytest.raises(UsageError, match="needs_lag is"):
            settle(tmp_path, **flags)


@pytest.mark.parametrize("loss", ["final", "every", "ce", "mse", "my.py:fn", "dir/my.py:fn"])
def test_losses(tmp_path, loss):
    assert settle(tmp_path, loss=loss).spec.loss == loss


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps"])
def test_devices(tmp_path, device):
    assert settle(tmp_path, device=device).spec.device == device


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"input": "x.csv", "text": "a b"}, "both input .* and text .* are given"),
        ({"columns": ["a"]}, "columns .* need a file"),
        ({"text": ""}, "text is '' .*; expected a text that is not empty"),
        ({"device": "cuda:x"}, "unknown device 'cuda:x'"),
        ({"loss": "my.py"}, "unknown loss 'my.py'"),
        ({"scale": "standart"}, "unknown scale 'standart'; did you mean 'standard'"),
        ({"colour": "x"}, "unknown setting 'colour'"),
    ],
)
def test_contradictions_and_unknown_words(tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        settle(tmp_path, **flags)


@pytest.mark.parametrize(
    ("word", "name", "options"),
    [
        ("rnn", "rnn", {}),
        ("lstm:forget_bias=5", "lstm", {"forget_bias": "5"}),
        ("lstm:forget-bias=5, hidden=128", "lstm", {"forget_bias": "5", "hidden": "128"}),
        ("rnn:init=a=b", "rnn", {"init": "a=b"}),
    ],
)
def test_family_words(word, name, options):
    assert parse_model(word) == ModelWord(name, options, word)
    assert parse_model(word).is_family


@pytest.mark.parametrize(
    "word",
    [
        "w.pt",
        "a/b",
        "./lstm.py:Net",
        "lstm.py:Net",
        "package.module:attr",
        "module:Outer.Inner",
        "net:Cell",
        "chain.npy",
    ],
)
def test_the_users_own_models_are_left_whole(word):
    assert parse_model(word) == ModelWord(word, {}, word)
    assert not parse_model(word).is_family


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lstn", "unknown model 'lstn'; did you mean 'lstm'"),
        ("lstn:forget_bias=5", "did you mean 'lstm'"),
        ("", "unknown model ''"),
        ("lstm:Net", r"model option 'Net' of lstm has no value; .* \./lstm\.py:attr"),
        ("lstm:hidden=", "model option 'hidden=' of lstm has no value"),
        ("lstm:hidden=3,hidden=4", "model option 'hidden' of lstm is given twice"),
        ("rnn:,", "model option '' of rnn has no value"),
    ],
)
def test_other_words_are_refused(word, message):
    with pytest.raises(UsageError, match=message):
        parse_model(word)


def test_arguments_of_the_users_code_stay_as_written(tmp_path):
    write(tmp_path / "gradscope.toml", "[args]\nhidden = 64\nname = 'a,b'\n")
    assert settle(tmp_path).spec.args == {"hidden": "64", "name": "a,b"}
    assert settle(tmp_path, args=["hidden=8", "sizes=[1, 2]"]).spec.args == {"hidden": "8", "sizes": "[1, 2]"}
    for wrong in (["hidden"], ["=3"], ["a b=3"]):
        with pytest.raises(UsageError, match=r"args is .* \(--arg\); expected name=value"):
            settle(tmp_path, args=wrong)


def test_trust_is_true_or_false_and_folders_are_kept_whole(tmp_path):
    assert settle(tmp_path).spec.trust is False
    assert settle(tmp_path, {"GRADSCOPE_TRUST": "yes"}).spec.trust is True
    assert settle(tmp_path, trust=True, import_path=["a,b", "c d"]).spec.import_path == ("a,b", "c d")
    with pytest.raises(UsageError, match=r"trust is 'maybe' \(GRADSCOPE_TRUST\); expected true or false"):
        settle(tmp_path, {"GRADSCOPE_TRUST": "maybe"})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"cell": "linear"}, "unknown cell 'linear'; did you mean 'linear-concat'"),
        ({"nonlinearity": "sigmoid"}, "unknown nonlinearity 'sigmoid'"),
        ({"layout": "batch"}, "unknown layout 'batch'"),
        ({"state": "s.npy", "state_size": 3}, "both state .* and state_size .* are given"),
        ({"vocab": "v.json"}, "vocab .* add --embedding KEY"),
        ({"embedding": "emb.weight", "input": "x.npy"}, "embedding .* add --text or --input FILE.txt"),
    ],
)
def test_settings_of_files_that_cannot_be(tmp_path, flags, message):
    with pytest.raises(UsageError, match=message):
        settle(tmp_path, **flags)


@pytest.mark.parametrize(
    ("file", "flags", "gone"),
    [
        ("input = 'x.csv'\ncolumns = ['a']\ntarget = 'y.csv'", {"text": "the cat"}, ("input", "columns", "target")),
        ("input = 'x.csv'", {"task": "recall", "needs_lag": 5}, ("input",)),
        ("text = 'the cat'\nembedding = 'emb'", {"input": "x.csv"}, ("text", "embedding")),
        ("task = 'recall'\nneeds-lag = 5", {"length": 30}, ("task",)),
        ("length = 30\nloss = 'every'", {"task": "recall", "needs_lag": 5}, ("length",)),
        ("state-size = 3", {"state": "s.npy"}, ("state_size",)),
        ("remedy = 'chrono'\nsave = 'd'\nfix = true", {"fix": False}, ("remedy", "save")),
    ],
)
def test_a_stronger_source_stands_in_place_of_what_it_contradicts(tmp_path, file, flags, gone):
    write(tmp_path / "gradscope.toml", f"{file}\n")
    found = settle(tmp_path, **flags)
    for name in gone:
        assert not getattr(found.spec, name)
        assert found.origin[name] == "default"
    assert {name: getattr(found.spec, name) for name in flags} == flags
    assert any(f"{gone[0]} (gradscope.toml:1) is left out: " in sentence for sentence in found.replaced)


@pytest.mark.parametrize(
    ("file", "flags", "kept", "gone"),
    [
        ("input = 'a.csv'\ntarget = 'y.csv'\ncolumns = [1]\n", {"input": "b.csv"}, {}, ("target", "columns")),
        ("input = 'a.csv'\ntarget = 'y.csv'\n", {"input": "./a.csv"}, {"target": "y.csv"}, ()),
        ("input = 'a.csv'\ntarget = 'y.csv'\n", {"input": "b.csv", "target": "z.csv"}, {"target": "z.csv"}, ()),
        ("columns = [1]\n", {"input": "b.csv"}, {"columns": ("1",)}, ()),
        ("models = ['m.py:A']\nargs = {hidden = 3}\nweights = 'w.pt'\n", {"models": ["rnn"]}, {}, ("args", "weights")),
        ("models = ['m.py:A']\nargs = {hidden = 3}\n", {"models": ["m.py:A"]}, {"args": {"hidden": "3"}}, ()),
    ],
)
def test_what_a_file_says_about_its_own_input_or_model_is_not_said_of_another(tmp_path, file, flags, kept, gone):
    write(tmp_path / "gradscope.toml", file)
    found = settle(tmp_path, **flags)
    assert {name: getattr(found.spec, name) for name in kept} == kept
    for name in gone:
        assert getattr(found.spec, name) == getattr(RunSpec(), name)
        assert found.origin[name] == "default"
    assert {sentence.split()[0] for sentence in found.replaced} == set(gone)


@pytest.mark.parametrize(
    ("file", "environ", "flags"),
    [
        ("layers = 2\ndtype = 'float32'\nseeds = 3\n", {}, {"layers": 1, "dtype": "float64", "seeds": 1}),
        ("fix = true\ntrust = true\n", {}, {"fix": False, "trust": False}),
        ("loss = 'every'\n", {"GRADSCOPE_LOSS": "final"}, {}),
        ("loss = 'every'\nlength = 30\n", {}, {"task": "recall", "needs_lag": 5}),
        ("layers = 2\n", {}, {"seed": 3}),
    ],
)
def test_a_printed_command_asks_for_the_same_run_where_it_is_pasted(tmp_path, monkeypatch, file, environ, flags):
    write(tmp_path / "gradscope.toml", file)
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    spec = settle(tmp_path, environ, **flags).spec
    for name in environ:
        monkeypatch.delenv(name)
    asked: list[RunSpec] = []
    monkeypatch.setattr(
        "gradscope.examine.full_report", lambda spec, **other: asked.append(spec) or Report(spec, {}, ())
    )
    assert main(shlex.split(command(spec))[1:]) == 0
    assert asked == [spec]


def test_a_printed_command_names_no_setting_that_everybody_has_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command(RunSpec(length=9)) == "gradscope analyze rnn --length 9"
    write(tmp_path / "gradscope.toml", "length = [broken")
    assert command(RunSpec(length=9)) == "gradscope analyze rnn --length 9"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"models": ["rnn"], "weights": "w.pt"}, "weights is w.pt (--weights), and nothing here reads it: rnn takes"),
        ({"models": ["m.py:Net"], "hidden": 12}, "m.py:Net takes none; an argument of your class is --arg hidden=..."),
        ({"models": ["w.pt"], "args": ["a=3"]}, "args is {'a': '3'} (--arg)"),
        ({"models": ["attention"], "state": "s.npy"}, "state is s.npy (--state)"),
        ({"models": ["rnn:hidden=5"], "hidden": 3}, "hidden is 3 (--hidden)"),
        ({"models": ["rnn"], "input": "x.npy", "sequence": "sine"}, "a sequence is given already"),
        ({"models": ["rnn"], "input": "x.npy", "tokens": "char"}, "the input is no text"),
        (
            {"models": ["rnn"], "tokens": "char"},
            "tokens is char (--tokens), and nothing here reads it: there is no text",
        ),
        ({"models": ["rnn"], "train_steps": 9}, "nothing is trained without --probe"),
    ],
)
def test_a_flag_that_nothing_reads_is_refused_and_never_printed(tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        settle(tmp_path, **flags)
    assert said in str(caught.value)
    # What a file says may be for other models; a line that is pasted does not repeat it.
    (name,) = set(flags) - {"models", "input"}
    spec = build_spec({"models": flags["models"], "input": flags.get("input")}, cwd=tmp_path, environ={}).spec
    spec = replace(spec, **{name: {"a": "3"} if name == "args" else flags[name]})
    assert f"--{name.removesuffix('s')}" not in command(spec)


def test_a_setting_that_one_of_several_models_reads_is_fine(tmp_path):
    assert settle(tmp_path, models=["rnn:hidden=5", "lstm"], hidden=3).spec.hidden == 3
    assert settle(tmp_path, models=["rnn", "m.py:Net"], weights="w.pt").spec.weights == "w.pt"
    assert settle(tmp_path, models=["w.pt"], trust=True, layout="time-first").spec.layout == "time-first"
    write(tmp_path / "gradscope.toml", "hidden = 12\nsequence = 'sine'\n")
    assert settle(tmp_path, models=["m.py:Net"], input="x.npy").spec.hidden == 12


def test_a_command_that_brings_a_task_takes_the_length_out_of_a_file_but_not_out_of_a_flag(tmp_path):
    write(tmp_path / "gradscope.toml", "length = 30\n")

    def probe(**flags):
        return build_spec(flags, cwd=tmp_path, environ={}, rest=lambda given: {"needs_lag": 50, "task": "recall"})

    assert (probe().spec.length, probe().spec.task) == (None, "recall")
    with pytest.raises(UsageError, match=r"both task \(default\) and length \(--length\) are given.*leave out length"):
        probe(length=30)


def test_a_stronger_source_takes_back_a_switch_and_empties_a_list(tmp_path):
    write(tmp_path / "pyproject.toml", "[tool.gradscope]\nfix = true\nignore = ['GS104']\nselect = ['GS1']\n")
    write(tmp_path / "gradscope.toml", "ignore = []\n")
    found = settle(tmp_path, fix=False).spec
    assert (found.fix, found.ignore, found.select) == (False, (), ("GS1",))


def project(folder, environ=None, **limits):
    return Project(folder, environ or {}, {}, limits)


@pytest.mark.parametrize(
    ("variable", "text", "name", "value"),
    [
        ("GRADSCOPE_RATE", "[-0.01, 0.0]", "rate", (-0.01, 0.0)),
        ("GRADSCOPE_PRECISION_HORIZON", "{float32 = 50}", "precision_horizon", {"float32": 50}),
        ("GRADSCOPE_MIN_HEALTHY", "90%", "min_healthy", 0.9),
        ("GRADSCOPE_MIN_REACH", "40", "min_reach", 40),
        ("GRADSCOPE_MAX_DROP", "20%", "max_drop", 0.2),
        ("GRADSCOPE_TIMEOUT", "7", "timeout", 7.0),
    ],
)
def test_every_limit_can_be_a_variable_between_file_and_flag(tmp_path, variable, text, name, value):
    write(tmp_path / "gradscope.toml", "max-drop = 0.5\n[targets.net]\nmodel = 'rnn'\nmin-reach = 10\n")
    (found,) = project(tmp_path, {variable: text}).asked([])
    assert (getattr(found.target.limits, name), found.origin[name]) == (value, variable)
    with pytest.raises(UsageError, match=rf"{name} is 'x' \({variable}\); expected"):
        project(tmp_path, {variable: "x"}).asked([])
    if name == "min_reach":
        (flagged,) = project(tmp_path, {variable: text}, min_reach=20).asked([])
        assert flagged.target.limits.min_reach == 20


def test_variables_name_targets_baseline_and_jobs(tmp_path):
    write(
        tmp_path / "gradscope.toml",
        "jobs = 3\nbaseline = 'a.json'\n[targets.a]\nmodel='rnn'\n[targets.b]\nmodel='gru'\n",
    )
    environ = {"GRADSCOPE_TARGETS": "b", "GRADSCOPE_JOBS": "2", "GRADSCOPE_BASELINE": "b.json"}
    found = project(tmp_path, environ)
    assert [one.target.name for one in found.asked([])] == ["b"]
    assert [one.target.name for one in found.asked(["a"])] == ["a"]
    assert (job_count(found, None), baseline_path(found, None)) == (2, "b.json")
    with pytest.raises(UsageError, match="unknown target or model 'c'"):
        project(tmp_path, {"GRADSCOPE_TARGETS": "c"}).asked([])
    with pytest.raises(UsageError, match=r"jobs is 'x' \(GRADSCOPE_JOBS\)"):
        job_count(project(tmp_path, {"GRADSCOPE_JOBS": "x"}), None)


@pytest.mark.parametrize(
    ("table", "seeds"),
    [
        ("model = 'lstm'", 5),
        ("model = 'net.py:Net'", 5),
        ("model = 'lstm'\nseeds = 2", 2),
        ("model = 'net.py:Net'\nweights = 'w.pt'", 1),
        ("model = 'w.pt'", 1),
        ("model = 'w.pt:encoder'", 1),
        ("model = 'run.jsonl'", 1),
        ("model = 'lstm'\nover = ['hidden=4,8']", 1),
    ],
)
def test_a_target_is_drawn_often_enough_to_be_quiet_where_its_weights_are_drawn(tmp_path, table, seeds):
    write(tmp_path / "gradscope.toml", f"[targets.net]\n{table}\n")
    (found,) = project(tmp_path).asked([])
    assert found.target.spec.seeds == seeds


@pytest.mark.parametrize("entry", ["weights = 'w.pt'", "nonlinearity = 'relu'", "state = 's.npy'"])
def test_an_entry_of_a_target_that_its_model_does_not_read_is_refused(tmp_path, entry):
    write(tmp_path / "gradscope.toml", f"[targets.net]\nmodel = 'lstm'\n{entry}\n")
    with pytest.raises(
        UsageError, match=rf"^{entry.split()[0]} \(gradscope.toml:3\) is read by nothing here: lstm takes"
    ):
        project(tmp_path).asked([])
    # On top, for all targets, it is for those that have it.
    write(tmp_path / "gradscope.toml", f"{entry}\n[targets.net]\nmodel = 'lstm'\n")
    assert len(project(tmp_path).asked([])) == 1


def asked_with(folder, words, **flags):
    return [one.target.name for one in Project(folder, {}, flags, {}).asked(words)]


def test_a_flag_of_check_is_refused_where_no_target_reads_it_and_only_there(tmp_path):
    assert asked_with(tmp_path, ["w.pt", "gru"], nonlinearity="relu") == ["w.pt", "gru"]
    with pytest.raises(UsageError, match=r"^nonlinearity is relu \(--nonlinearity\), .*: lstm takes none; gru"):
        asked_with(tmp_path, ["lstm", "gru"], nonlinearity="relu")


@pytest.mark.parametrize(
    ("model", "over", "entry", "said"),
    [
        (
            "lstm",
            "hidden=4,8",
            "state = 's.npy'",
            r"state \(gradscope.toml:4\) is read by nothing here: lstm takes none",
        ),
        ("w.pt", "hidden=4,8", "", r"hidden \(gradscope.toml:3\) is read by nothing here: w.pt takes none"),
        ("lstm", "hidden=4,8", "input = 'x.npy'\nsequence = 'sine'", r"sequence .*:5\) is read by nothing here: a seq"),
    ],
)
def test_an_entry_or_an_axis_that_no_point_of_a_sweep_reads_is_refused(tmp_path, model, over, entry, said):
    write(tmp_path / "gradscope.toml", f"[targets.net]\nmodel = '{model}'\nover = ['{over}']\n{entry}\n")
    with pytest.raises(UsageError, match=f"^{said}"):
        project(tmp_path).asked([])


def test_an_entry_that_one_point_of_a_sweep_reads_is_kept(tmp_path):
    table = "model = 'lstm'\nover = ['input=x.npy,x.txt']\ntokens = 'char'"
    write(tmp_path / "gradscope.toml", f"[targets.net]\n{table}\n")
    assert asked_with(tmp_path, []) == ["net"]


def test_what_config_prints_is_a_configuration_that_says_the_same(tmp_path, monkeypatch, capsys):
    table = '[targets."a \U0001f600"]\nmodel = \'net.py:Net\'\nargs = {a = "it\'s"}\nrate = [-0.1, 0.1]\n'
    top = "baseline = 'x.json'\njobs = 2\nmin-reach = 5\nstate = '\U0001f600.npy'\n"
    write(tmp_path / "gradscope.toml", f"{top}{table}")
    for name in [name for name in os.environ if name.startswith("GRADSCOPE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    before = build_spec({}, cwd=tmp_path, environ={}).spec, project(tmp_path).asked([])[0].target
    config()
    write(tmp_path / "gradscope.toml", capsys.readouterr().out)
    after = build_spec({}, cwd=tmp_path, environ={}).spec, project(tmp_path).asked([])[0].target
    assert after[0] == before[0]
    assert after[1] == replace(before[1], location=after[1].location)
    assert (job_count(project(tmp_path), None), project(tmp_path).entry("baseline")[0]) == (2, "x.json")


def test_a_file_that_begins_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "gradscope.toml").write_bytes(b"\xef\xbb\xbflength = 12\r\n")
    assert settle(tmp_path).spec.length == 12
