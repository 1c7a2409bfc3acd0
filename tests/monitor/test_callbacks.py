"""The callbacks in the real trainers: the same weights with and without, accumulation, clipping, losses."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gradscope.flow_file import read_flow


def data() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(48, 12, 2, generator=generator)
    return list(zip(x, x[:, 0, :1], strict=True))


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.drop, self.head = nn.LSTM(2, 8, batch_first=True), nn.Dropout(0.2), nn.Linear(8, 1)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.head(self.drop(self.rnn(x)[1][0][-1])) - y).square().mean()


def checked(log: Path, backwards: int, clip: float) -> None:
    """What every trainer's run must show."""
    points = [p for p in read_flow(str(log)).points if p.kind == "signal"]
    assert [p.step for p in points] == [0, 1, 2, 3, 6]
    for p in points[:-1]:
        assert p.norms.backwards == backwards
        assert p.norms.log10_clipped == pytest.approx(math.log10(clip), abs=1e-3)
        assert p.norms.log10_raw > p.norms.log10_clipped
        assert p.loss is not None
        assert p.reach is not None


def test_lightning(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")
    from gradscope.monitor.callbacks.lightning import GradientFlow

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = Body()

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return self.body.loss(*batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-2)

    log, ends = tmp_path / "flow.jsonl", []
    for callbacks in ([GradientFlow(needs_lag=6, every=3, log=log, screen=False)], []):
        torch.manual_seed(0)
        model = Module()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the trainer's own advice on workers and loggers
            trainer = lightning.Trainer(
                **{**QUIET, "max_epochs": 1}, accumulate_grad_batches=2, gradient_clip_val=0.01, callbacks=callbacks
            )
            trainer.fit(model, torch.utils.data.DataLoader(data(), batch_size=4))
        ends.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    checked(log, backwards=2, clip=0.01)


QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def test_lightning_with_updates_of_its_own(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")
    from gradscope.monitor.callbacks.lightning import GradientFlow

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.automatic_optimization = Body(), False

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            loss, optimizer = self.body.loss(*batch), self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=0.01, gradient_clip_algorithm="norm")
            optimizer.step()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-2)

    log = tmp_path / "flow.jsonl"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = lightning.Trainer(
            **QUIET, max_epochs=1, callbacks=[GradientFlow(needs_lag=6, every=1, log=log, screen=False)]
        )
        trainer.fit(Module(), torch.utils.data.DataLoader(data(), batch_size=8))
    points = [point for point in read_flow(str(log)).points if point.kind == "signal"]
    assert [point.step for point in points] == list(range(len(points)))
    assert len(points) > 2
    for point in points[:-1]:
        assert point.loss is not None
        assert point.norms.log10_raw > point.norms.log10_clipped == pytest.approx(-2, abs=1e-3)


def test_lightning_goes_on_in_its_log_after_a_checkpoint(tmp_path):
    lightning = pytest.importorskip("pytorch_lightning")
    from gradscope.monitor.callbacks.lightning import GradientFlow

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.losses = Body(), []

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            loss = self.body.loss(*batch)
            self.losses.append(float(loss))
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 1e-2)

    log, ckpt, losses = tmp_path / "flow.jsonl", tmp_path / "a.ckpt", []
    for epochs, path in ((1, None), (2, ckpt)):
        model = Module()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            callback = GradientFlow(needs_lag=6, every=4, log=log, screen=False)
            trainer = lightning.Trainer(**QUIET, max_epochs=epochs, accumulate_grad_batches=2, callbacks=[callback])
            trainer.fit(model, torch.utils.data.DataLoader(data(), batch_size=4), ckpt_path=path)
        trainer.save_checkpoint(ckpt)
        losses += model.losses
    signals = [p for p in read_flow(str(log)).points if p.kind == "signal"]
    assert [p.step for p in signals] == [0, 1, 2, 4, 6, 8, 12]
    # A point holds the loss of the second of the two batches of its update; both runs end without one.
    assert [p.loss is None for p in signals] == [False, False, False, False, True, False, True]
    told = [p for p in signals if p.loss is not None]
    assert [p.loss for p in told] == pytest.approx([losses[2 * p.step + 1] for p in told], rel=1e-5)


def test_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from gradscope.monitor.callbacks.huggingface import GradientFlow

    class Module(Body):
        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": self.loss(x, labels)}

    log, ends = tmp_path / "flow.jsonl", []
    rows = [{"x": x, "labels": y} for x, y in data()]
    for callbacks in ([GradientFlow(needs_lag=6, every=3, log=log, screen=False)], []):
        torch.manual_seed(0)
        model = Module()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arguments = transformers.TrainingArguments(
                str(tmp_path / "out"),
                num_train_epochs=1,
                per_device_train_batch_size=4,
                gradient_accumulation_steps=2,
                max_grad_norm=0.01,
                logging_steps=1,
                **SILENT,
            )
            trainer = transformers.Trainer(model, arguments, train_dataset=rows, callbacks=callbacks)
            trainer.train()
        ends.append(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
    checked(log, backwards=2, clip=0.01)
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    points = read_flow(str(log)).points
    assert [p.loss for p in points[:-2]] == pytest.approx([logged[p.step] for p in points[:-2]], rel=1e-5)


SILENT = {"save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True}


def test_hugging_face_has_a_loss_at_every_point_however_rarely_it_logs_and_analyses_a_transformer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from gradscope.monitor.callbacks.huggingface import GradientFlow

    sizes = {"vocab_size": 11, "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    no_noise = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ids = torch.randint(0, 11, (24, 12), generator=torch.Generator().manual_seed(0))
    log, losses = tmp_path / "flow.jsonl", []

    class Trainer(transformers.Trainer):
        def training_step(self, *given: object, **more: object) -> Tensor:
            losses.append(float(part := super().training_step(*given, **more)))
            return part

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, **no_noise))
        arguments = transformers.TrainingArguments(
            str(tmp_path / "out"), max_steps=6, per_device_train_batch_size=4, logging_steps=500, **SILENT
        )
        callback = GradientFlow(needs_lag=6, every=2, log=log, screen=False, budget=100.0)
        rows = [{"input_ids": row, "labels": row} for row in ids]
        Trainer(model, arguments, train_dataset=rows, callbacks=[callback]).train()
    points = read_flow(str(log)).points
    assert [(p.step, p.kind) for p in points] == [(step, "analysis") for step in (0, 1, 2, 4, 6)]
    assert [p.loss for p in points[:-1]] == pytest.approx([losses[p.step] for p in points[:-1]], rel=1e-5)
    assert all(p.reach == 11 and p.status is not None for p in points)
    assert callback.flow.trajectory.notes == ()
    assert not model._forward_hooks


def test_keras(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        from gradscope.monitor.callbacks.keras import GradientFlow

        x, y = (torch.stack(part).numpy() for part in zip(*data(), strict=True))
        log, ends = tmp_path / "flow.jsonl", []
        for callbacks in ([GradientFlow(x[:4], needs_lag=6, log=log, screen=False)], []):
            keras.utils.set_random_seed(0)
            model = keras.Sequential([keras.Input((12, 2)), keras.layers.LSTM(8), keras.layers.Dense(1)])
            model.compile("adam", "mse")
            model.fit(x, y, batch_size=12, epochs=2, verbose=0, callbacks=callbacks)
            ends.append(model.get_weights())
    assert all((a == b).all() for a, b in zip(*ends, strict=True))
    points = read_flow(str(log)).points
    assert [(p.step, p.kind, p.loss is None) for p in points] == [
        (0, "analysis", True),
        (4, "analysis", False),
        (8, "analysis", False),
    ]
    assert all(p.reach is not None and "forget" in p.gates for p in points)


def test_keras_analyses_every_recurrent_layer_on_what_it_takes_and_notes_a_reason_once(tmp_path, monkeypatch):
    pytest.importorskip("h5py")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keras = pytest.importorskip("keras")
        import gradscope
        from gradscope.monitor.callbacks.keras import GradientFlow

        layers, settings = keras.layers, {"needs_lag": 6, "log": None, "screen": False}
        ids = torch.randint(0, 9, (24, 12), generator=torch.Generator().manual_seed(0)).numpy()
        target = (ids[:, :1] / 9.0).astype("float32")
        keras.utils.set_random_seed(0)
        body = [layers.Embedding(9, 5), layers.LSTM(8, return_sequences=True, name="low"), layers.GRU(6, name="top")]
        model = keras.Sequential([keras.Input((12,), dtype="int32"), *body, layers.Dense(1)])
        model.compile("sgd", "mse")
        model.save(tmp_path / "before.keras")
        low = keras.Model(model.inputs, body[0].output)(ids[:4]).detach().double()
        top = keras.Model(model.inputs, body[1].output)(ids[:4]).detach().double()
        runs = {key: GradientFlow(ids[:4], key=key, **settings) for key in (None, "top", "tpo")}
        runs["width"] = GradientFlow(top.numpy()[:, :, :3], key="top", **settings)
        model.fit(ids, target, batch_size=24, epochs=2, verbose=0, callbacks=list(runs.values()))
        for name, x in (("low", low), ("top", top)):
            own = gradscope.analyze(str(tmp_path / "before.keras"), x, key=name, needs_lag=6).models[0]
            first = next(p for p in runs[None].trajectory.points if p.layer == name)
            profile = [own.series.values["log10_influence"][lag] for lag in first.lags]
            assert first.log10_influence == pytest.approx(profile, rel=1e-4)
        masked = layers.Embedding(9, 5, mask_zero=True)
        behind = keras.Sequential([keras.Input((12,), dtype="int32"), masked, layers.GRU(6), layers.Dense(1)])
        behind.compile("sgd", "mse")
        runs["masked"] = GradientFlow(ids[:4], **settings)
        behind.fit(ids, target, batch_size=24, epochs=1, verbose=0, callbacks=[runs["masked"]])
        log = tmp_path / "twice.jsonl"
        for epochs in (2, 1):
            again = GradientFlow(ids[:4], key="top", **{**settings, "log": log})
            model.fit(ids, target, batch_size=24, epochs=epochs, verbose=0, callbacks=[again])
        assert [p.step for p in read_flow(str(log)).points] == [2, 3, 4, 5]
    told = {key: [(p.step, p.layer) for p in run.trajectory.points] for key, run in runs.items()}
    assert told[None] == [(step, name) for step in (0, 1, 2) for name in ("low", "top")]
    assert told["masked"] == [(0, ""), (1, "")]
    assert told["top"] == [(0, ""), (1, ""), (2, "")]
    assert told["tpo"] == told["width"] == []
    assert runs["tpo"].trajectory.notes == ("no analysis: unknown key 'tpo'; did you mean 'top'? (one of: low, top)",)
    (note,) = runs["width"].trajectory.notes
    assert "no analysis of top: x has 3 features" in note
    assert str(tmp_path)[:5] not in note
