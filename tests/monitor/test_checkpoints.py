"""Which files are checkpoints, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from gradscope.errors import UsageError
from gradscope.monitor.checkpoints import Order, counters_in, found_files, number_in, order_of, step_of


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("ckpt_400.pt", 400),
        ("epoch=3-step=1200.ckpt", 1200),
        ("model-0007.safetensors", 7),
        ("lstm2_iter0050.pth", 50),
        ("gpt2-checkpoint-30.tar.pt", 30),
        ("checkpoint-500/model.safetensors", 500),
        ("final.pt", None),
        ("step_12_best.pt", 12),
        ("unit2_epoch10.pt", 10),
        ("bit4_epoch7.pt", 7),
        ("best_30_val0.3023.pth", 30),
        ("epoch=03-val_loss=0.25.ckpt", 3),
        ("model_epoch5_loss0.123.pt", 5),
        ("ep12-acc97.pt", 12),
        ("net_40_1.5e-3.pt", 40),
        ("model.10.pt", 10),
        ("weights.1.5.pt", 5),
    ],
)
def test_the_step_in_a_name(name, step, tmp_path):
    assert number_in(Path("run") / name) == step


@pytest.mark.parametrize(
    ("data", "counters"),
    [
        ({"global_step": 5, "epoch": 1, "state_dict": {}}, {"global_step": 5, "epoch": 1}),
        ({"step": torch.tensor(7)}, {"step": 7}),
        ({"iteration": 8.0}, {"iteration": 8}),
        ({"trainer_state": {"global_step": 9}}, {"global_step": 9}),
        ({"step": True, "epoch": -1, "iter": "x", "steps": torch.ones(2)}, {}),
        ([1, 2], {}),
    ],
)
def test_counters_in_a_checkpoint(data, counters):
    assert counters_in(data) == counters


def test_a_counter_serves_only_where_all_have_their_own():
    files = [Path(f"{place}.pt") for place in (1, 2)]
    same = {"epoch": 3}
    assert order_of(zip(files, [{"step": 10, **same}, {"step": 20, **same}], strict=True)) == Order("counter", "step")
    assert order_of(zip(files, [{"step": 10, **same}, same], strict=True)) == Order("name")
    assert order_of(zip([Path("a.pt"), Path("b.pt")], [{}, {}], strict=True)) == Order("time")


@pytest.mark.parametrize(
    ("files", "steps"),
    [
        ({"ckpt_100.pt": {}, "ckpt_200.pt": {}, "last.pt": {"step": 300}}, [100, 200, 300]),
        ({"ckpt_0.pt": {}, "ckpt_200.pt": {}, "best.pt": {"global_step": 150, "epoch": 3}}, [0, 200, 150]),
        ({"1.pt": {}, "2.pt": {}, "3.pt": {}, "best.pt": {"global_step": 950, "epoch": 2}}, [1, 2, 3, 2]),
        ({"epoch_1.pt": {}, "epoch_4.pt": {}, "best.pt": {"epoch": 3, "global_step": 4}}, [1, 4, 3]),
        # Copies of one step, told apart by nothing.
        ({"ckpt_100.pt": {}, "ckpt_200.pt": {}, "last.pt": {"step": 200}}, [100, 200, 200]),
        ({"best.pt": {"step": 5}, "last.pt": {"step": 9}, "a.pt": {"step": 5}, "b.pt": {"step": 9}}, [5, 9, 5, 9]),
        # What counts epochs in names is no step of a counter, nor what differs from it where a file has both.
        ({"epoch_1.pt": {}, "epoch_2.pt": {}, "last.pt": {"step": 300}}, None),
        ({"m_1.pt": {"step": 70}, "m_2.pt": {}, "last.pt": {"step": 150}}, None),
        ({"m_1.pt": {}, "m_2.pt": {}, "last.pt": {"step": 150}}, None),
        ({"a.pt": {"step": 7}, "b.pt": {"step": 7}}, None),
    ],
)
def test_a_counter_and_the_numbers_of_names_are_one_order_where_they_count_the_same(files, steps):
    every = [(Path("run") / name, counters) for name, counters in files.items()]
    order = order_of(every)
    assert order == Order("time") if steps is None else [step_of(*file, order) for file in every] == steps
    assert steps is None or ("names" in str(order)) == any(not counters for counters in files.values())


def test_an_order_says_what_it_is():
    assert str(Order("counter", "step")) == "by the checkpoints' own counter 'step'"
    assert "number in their names" in str(Order("name"))
    assert step_of(Path("a_3.pt"), {"step": 7}, Order("counter", "step")) == 7
    assert step_of(Path("a_3.pt"), {"step": 7}, Order("name")) == 3
    assert step_of(Path("a_3.pt"), {}, Order("counter", "step")) is None


def test_folders_give_their_model_files_and_no_optimizers(tmp_path):
    for name in ("a_1.pt", "notes.txt", "optimizer.pt", "checkpoint-5/model.safetensors", "checkpoint-5/rng_state.pth"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = {path.relative_to(tmp_path).as_posix() for path in found_files([str(tmp_path)])}
    assert found == {"a_1.pt", "checkpoint-5/model.safetensors"}
    assert found_files([os.path.join(tmp_path, "*.pt")]) == [tmp_path / "a_1.pt", tmp_path / "optimizer.pt"]


def test_a_word_that_names_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="names no file"):
        found_files([str(tmp_path / "*.pt")])
    with pytest.raises(UsageError, match="holds no checkpoint"):
        found_files([str(tmp_path)])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds no checkpoint"):
        found_files([str(tmp_path)])
