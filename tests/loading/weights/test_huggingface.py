"""Hugging Face folders: small models made here, saved, and analysed from the folder."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

import gradscope
from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import ModelResult, RunSpec
from gradscope.sequences.losses import direction
from gradscope.sequences.synthetic import integers

transformers = pytest.importorskip("transformers")

SMALL = {"num_hidden_layers": 2, "vocab_size": 300, "hidden_size": 16}
HEADS = {**SMALL, "num_attention_heads": 2, "intermediate_size": 32}
MAKERS: dict[str, Any] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=300, n_positions=48)
    ),
    "mamba": lambda: transformers.MambaForCausalLM(transformers.MambaConfig(**SMALL, state_size=4)),
    "rwkv": lambda: transformers.RwkvForCausalLM(transformers.RwkvConfig(**SMALL, attention_hidden_size=16)),
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**HEADS, max_position_embeddings=48)),
}
TEXT = "the cat , which was here , was hungry"


def save(make: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    make().eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hf")
    return {name: save(make, root / name) for name, make in MAKERS.items()}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt to reach the network is an error."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def copied(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def analysed(folder: Path, **settings: object) -> ModelResult:
    return diagnose(RunSpec(models=(str(folder),), **{"length": 12, "batch": 2, **settings})).models[0]


@pytest.mark.parametrize("name", MAKERS)
def test_influence_is_the_gradient_by_the_input_embeddings(name: str, folders: dict[str, Path]) -> None:
    found = analysed(folders[name])
    model = transformers.AutoModel.from_pretrained(
        folders[name], attn_implementation="eager", dtype=torch.float64
    ).eval()
    ids = torch.stack([integers(0, "ids", row, below=300, size=(12,)) for row in range(2)])
    leaf = model.get_input_embeddings()(ids).detach().requires_grad_()
    torch.set_default_dtype(torch.float64)
    try:
        y = model(inputs_embeds=leaf, **({} if name == "bert" else {"use_cache": False}))["last_hidden_state"]
    finally:
        torch.set_default_dtype(torch.float32)
    (gradient,) = torch.autograd.grad((y[:, -1] @ direction(0, y.shape[-1]).to(y)).sum(), leaf)
    expected = gradient.norm(dim=-1).log10().mean(0)
    assert found.series.values["log10_grad_input"] == pytest.approx(expected.tolist(), abs=1e-9)
    assert (found.name, found.size, found.loaded.trained) == (name, 16, True)
    assert {"random input, not your data", "random token ids, of 300"} <= set(found.notes)


def test_encoders_read_the_future_and_the_others_do_not(folders: dict[str, Path]) -> None:
    results = {name: analysed(folder) for name, folder in folders.items()}
    assert results["bert"].summary.reach is None
    assert results["bert"].skipped["reach"] == "reads the future: output 6 depends on inputs 7 to 12"
    assert results["bert"].summary.rate is not None
    assert next(v for v in results["bert"].verdicts if v.code == "GS104").status == "skip"
    assert all(results[name].summary.reach is not None for name in ("gpt2", "mamba", "rwkv"))


def test_what_is_carried_is_what_the_library_caches(folders: dict[str, Path]) -> None:
    carried = {name: analysed(folder).summary.carried_floats for name, folder in folders.items()}
    keys_and_values = 2 * 2 * 16 * 12
    mamba = 2 * (32 * 4 + 32 * 4)
    """Per layer: a convolution over 4 steps and 4 states for each of 32 channels."""
    assert carried == {"gpt2": keys_and_values, "mamba": mamba, "rwkv": 5 * 16 * 2, "bert": None}


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_attention_maps_by_layer_and_head(name: str, folders: dict[str, Path]) -> None:
    found = analysed(folders[name])
    assert found.kind == "attention"
    weights = torch.tensor(found.attention.weights)
    assert weights.shape == (2, 2, 12, 12)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 12), atol=1e-6)
    assert bool((weights.triu(1) > 0).any()) == (name == "bert")


def test_next_tokens_through_the_models_own_head(folders: dict[str, Path]) -> None:
    found = analysed(folders["gpt2"], length=None, batch=None, text="to be or not to be", tokens="byte", loss="ce")
    assert found.series.token[:5] == ("t", "o", " ", "b", "e")
    assert (found.length, found.size, found.summary.needed_lag) == (18, 300, 16)
    assert "cross-entropy of the next of 300 token ids through the model's own head" in found.notes
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folders["gpt2"], attn_implementation="eager", dtype=torch.float64
    ).eval()
    ids = torch.tensor([list(b"to be or not to be")])
    leaf = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=leaf, use_cache=False)["logits"][0, :-1]
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"), leaf)
    assert found.series.values["log10_grad_input"][:-1] == pytest.approx(gradient[0, :-1].norm(dim=-1).log10().tolist())


def test_pairs_of_tokens_by_head(folders: dict[str, Path]) -> None:
    pair = analysed(
        folders["gpt2"], length=None, batch=None, text="to be or not to be", tokens="byte", pair=("t:n",)
    ).pairs[0]
    assert (pair.source, pair.target, pair.of) == ("t", "n", 10)
    assert [path.path for path in pair.paths if path.layer == "l1"] == ["head 0 weight", "head 1 weight"]


def with_tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: place for place, word in enumerate(["<unk>", "<s>", *dict.fromkeys(TEXT.split())])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    fast.save_pretrained(folder)
    return folder


def test_text_through_the_folders_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = with_tokenizer(copied(folders["bert"], tmp_path / "bert"))
    found = analysed(folder, text=TEXT, length=None, batch=None, pair=("cat:was#2",))
    assert found.series.token == ("<s>", *TEXT.split())
    assert any(note.endswith("the model's own tokenizer") for note in found.notes)
    assert (found.pairs[0].target_step, found.pairs[0].of) == (9, 10)
    with pytest.raises(UsageError, match="nothing says whose; add --vocab FILE"):
        analysed(folders["bert"], text=TEXT, length=None, batch=None)


def test_sequences_fit_the_positions_that_the_model_has(folders: dict[str, Path]) -> None:
    found = analysed(folders["gpt2"], length=None)
    assert found.length == 48
    assert "48 steps are the most that the model takes" in found.notes
    with pytest.raises(UsageError, match="--length 60 is more than the 48 steps"):
        analysed(folders["gpt2"], length=60)
    assert analysed(folders["gpt2"], length=None, batch=None, text="a" * 90, tokens="byte").length == 48


def test_positions_that_start_after_the_padding(tmp_path: Path) -> None:
    config = transformers.RobertaConfig(**HEADS, max_position_embeddings=20, pad_token_id=1)
    folder = save(lambda: transformers.RobertaModel(config), tmp_path / "roberta")
    assert analysed(folder, length=None).length == 18


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [lambda thing, path: path.write_bytes(pickle.dumps(thing)), torch.save])
def test_a_pickle_in_a_folder_is_not_run(write: Any, folders: dict[str, Path], tmp_path: Path) -> None:
    folder, touched = copied(folders["gpt2"], tmp_path / "evil"), tmp_path / "touched"
    write({"x": Evil(touched)}, folder / "pytorch_model.bin")
    assert analysed(folder).status == "healthy"
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"pytorch_model\.bin") as caught:
        analysed(folder)
    assert not touched.exists()
    assert "\n" not in str(caught.value)


def reconfigured(folder: Path, **settings: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))
    return folder


def test_code_in_a_folder_is_not_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder, touched = copied(folders["gpt2"], tmp_path / "evil"), tmp_path / "touched"
    (folder / "mine.py").write_text(f"open({str(touched)!r}, 'w')")
    reconfigured(folder, auto_map={"AutoConfig": "mine.Config", "AutoModel": "mine.Model"})
    assert analysed(folder).loaded.source.endswith("GPT2Model")
    assert not touched.exists()
    reconfigured(folder, model_type="mine")
    with pytest.raises(UsageError, match="cannot be loaded by transformers") as caught:
        analysed(folder)
    assert not touched.exists()
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_drawn_at_random(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copied(folders["bert"], tmp_path / "bert")
    weights = load_file(folder / "model.safetensors")
    unread = {name: tensor for name, tensor in weights.items() if not name.startswith("pooler")}
    save_file(unread, folder / "model.safetensors", metadata={"format": "pt"})
    assert analysed(folder).summary.rate == pytest.approx(analysed(folders["bert"]).summary.rate)
    read = {name: tensor for name, tensor in weights.items() if not name.endswith("0.attention.self.query.weight")}
    save_file(read, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"has no .*query\.weight, which its config\.json asks for"):
        analysed(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"holds no weights \(model.safetensors or pytorch_model.bin\)"):
        analysed(folder)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocab_size": 10**9}, r"has wte\.weight of shape \(300, 16\), its config\.json says \(1000000000, 16\)"),
        ({"n_layer": 10**6}, "tensors and says it has 1,000,000 layers"),
        ({"n_embd": "wide"}, "cannot be loaded by transformers"),
    ],
)
def test_a_configuration_of_another_model(
    settings: dict[str, object], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        analysed(reconfigured(copied(folders["gpt2"], tmp_path / "other"), **settings))


def test_a_broken_tokenizer_is_missed_by_text_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = with_tokenizer(copied(folders["bert"], tmp_path / "bert"))
    (folder / "tokenizer.json").write_text("{}")
    assert analysed(folder).length == 12
    with pytest.raises(UsageError, match=r"the tokenizer of .* cannot be loaded"):
        analysed(folder, text=TEXT, length=None, batch=None)


def test_a_model_in_parts(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    transformers.AutoModelForCausalLM.from_pretrained(folders["mamba"]).save_pretrained(folder, max_shard_size="10KB")
    index = folder / "model.safetensors.index.json"
    assert index.is_file()
    assert analysed(folder).summary.rate == pytest.approx(analysed(folders["mamba"]).summary.rate)
    listed = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": dict.fromkeys(listed["weight_map"], "../elsewhere.safetensors")}))
    with pytest.raises(UsageError, match="names files outside its folder"):
        analysed(folder)


def test_the_encoder_of_an_encoder_decoder(tmp_path: Path) -> None:
    config = transformers.T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
    )
    found = analysed(save(lambda: transformers.T5ForConditionalGeneration(config), tmp_path / "t5"))
    assert "T5Model, the last hidden states of its encoder alone" in found.loaded.assumed
    assert "reads the future" in found.skipped["reach"]


def test_what_is_no_model_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"is a folder without config\.json"):
        analysed(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "vit", "hidden_size": 16}')
    with pytest.raises(UsageError):
        analysed(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"install transformers \(the extra \[hf\]\)"):
        analysed(tmp_path)


def test_ids_from_the_api_are_checked(folders: dict[str, Path]) -> None:
    report = gradscope.analyze(str(folders["gpt2"]), torch.tensor([[1, 2, 3, 4, 299]]))
    assert report.models[0].length == 5
    with pytest.raises(UsageError, match=r"x has 300 at step 3; .* whole numbers 0 to 299"):
        gradscope.analyze(str(folders["gpt2"]), torch.tensor([[1, 2, 300]]))
    with pytest.raises(UsageError, match=r"this model takes token ids"):
        gradscope.analyze(str(folders["gpt2"]), torch.randn(1, 5, 16))
