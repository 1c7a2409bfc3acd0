"""The benchmarks run, and say everything they promise; how fast is not a matter for tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradscope.flow_file import read_flow
from gradscope.numerics.lyapunov import lyapunov
from gradscope.numerics.products import sweep_products

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="a source distribution has no benchmarks")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("benchmarks") / "page.md"


@pytest.fixture(scope="module")
def report(page) -> dict:
    done = run("--quick", "--json", "--row", "sweeps", "--row", "gradients", "-o", str(page))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_page_is_written_where_it_is_asked_for(report, page):
    assert page.read_text(encoding="utf-8").startswith("# Benchmarks")
    assert f"`{report['command']}`" in page.read_text(encoding="utf-8")


def test_json_has_every_comparison_of_the_rows_asked_for(report):
    assert report["schema"] == "gradscope.benchmarks/1"
    assert report["quick"] is True
    assert [(row["row"], row["sense"], row["goal"]) for row in report["rows"]] == [
        ("sweeps", "at most", 2.0),
        ("sweeps", "at least", 2.0),
        ("sweeps", "at least", 2.0),
        ("gradients", "at most", 2.0),
        ("gradients", "at least", None),
    ]


def test_ratios_are_of_the_medians_beside_them_and_decide_what_is_reached(report):
    measured = [row for row in report["rows"] if row["ratio"] is not None]
    assert len(measured) >= 4
    for row in measured:
        ours, other = row["seconds"], row["other_seconds"]
        assert row["ratio"] == pytest.approx(other / ours if row["sense"] == "at least" else ours / other)
        if row["goal"] is None:
            assert row["reached"] is None
        else:
            enough = row["ratio"] >= row["goal"] if row["sense"] == "at least" else row["ratio"] <= row["goal"]
            assert row["reached"] is enough


def test_sweeps_are_counted_and_sizes_and_versions_are_said(report):
    assert "2 sweeps counted" in report["rows"][0]["notes"]
    assert report["rows"][0]["size"].startswith("tanh RNN N=40 T=20 B=1 float64")
    assert {"gradscope", "python", "torch", "jax", "threads"} <= set(report["environment"])


def test_a_peer_that_is_not_installed_is_named(report):
    if report["environment"]["jax"] != "not installed":
        pytest.skip("JAX is installed")
    absent = report["rows"][2]
    assert absent["notes"] == ["JAX not installed"]
    assert absent["ratio"] is None
    assert absent["reached"] is None


def test_an_unknown_row_lists_the_known_ones():
    done = run("--row", "nonsense")
    assert done.returncode == 2
    known = (
        "jacobians, sweeps, sweeps-lstm, gradients, leading, million, screen, found, monitor, processes, "
        "sweep-overhead, sweep-dispatch, sweep-client, kills"
    )
    assert known in done.stderr.replace("'", "")


def test_torch_peers_compute_what_gradscope_computes(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import models, peers

    rnn, x = models.model("rnn", 5, torch.float64), models.sequence(1, 7, torch.float64)
    trajectory, step, module = rnn.run(x), peers.tanh_step(rnn), models.module_of(rnn)
    jacobians = trajectory.dense(0, 7)[0]
    torch.testing.assert_close(peers.jacrev_vmap(step, module, x), jacobians)
    torch.testing.assert_close(torch.stack(peers.autograd_loop(step, module, x, 3)), jacobians[:3])
    exponents, norms = peers.exponents_and_norms(jacobians)
    torch.testing.assert_close(exponents.sort(descending=True).values, lyapunov(trajectory).mean)
    ours = sweep_products(trajectory).log10_norm * torch.log(torch.tensor(10.0, dtype=torch.float64))
    torch.testing.assert_close(norms.flip(0), ours[:-1])


def test_the_retain_grad_loop_finds_the_same_gradients(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import gradients, models, peers

    lstm, x = models.model("lstm", 5, torch.float64), models.sequence(2, 7, torch.float64)
    states, inputs = peers.retain_grad_loop(peers.cell_of(models.module_of(lstm)), x)
    found, found_inputs, shares = gradients.gradient_norms(lstm, x)
    assert states.shape == found[1:].shape
    torch.testing.assert_close(inputs.log10(), found_inputs)
    torch.testing.assert_close((10**shares).sum(0), torch.ones(2, dtype=torch.float64))


def test_the_runs_that_are_kept_say_what_the_readme_says(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.training import opening

    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    told = opening.told(ROOT / "benchmarks" / "training" / "adding.jsonl")
    assert "reach 12 of 99 lags" in told
    assert "from step 280 on; loss below half of 0.170 from step 440 on: the past opened 160 steps before" in told
    assert "from 12 lags to all 99 by update 280; until update 440" in readme
    assert "160 updates before the loss fell" in readme
    points = read_flow(str(ROOT / "benchmarks" / "training" / "shakespeare.jsonl")).points
    reaches = [point.reach for point in points if point.kind == "signal"]
    losses = [point.loss for point in points if point.loss is not None]
    assert f"never learned from anything older than {max(reaches)} of the 50" in readme
    assert f"loss of {losses[-1]:.2f}" in readme


def test_training_runs_are_made_again_by_their_command(tmp_path):
    log = tmp_path / "adding.jsonl"
    command = [sys.executable, "-m", "benchmarks.training", "adding", "--steps", "2", "--log", str(log)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert log.read_text().count('"kind":"signal"') == 3
