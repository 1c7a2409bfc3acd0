"""Hugging Face directories: small models made here, saved, and analysed from the folder."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch

import gradscope
from gradscope.errors import UsageError
from gradscope.pipeline import diagnose
from gradscope.records import ModelResult, RunSpec

transformers = pytest.importorskip("transformers")

SMALL = {"num_hidden_layers": 2, "vocab_size": 300, "hidden_size": 16}
MAKERS = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=2, n_head=2, n_embd=16, vocab_size=300, n_positions=48)
    ),
    "mamba": lambda: transformers.MambaForCausalLM(transformers.MambaConfig(**SMALL, state_size=4)),
    "rwkv": lambda: transformers.RwkvForCausalLM(transformers.RwkvConfig(**SMALL, attention_hidden_size=16)),
    "bert": lambda: transformers.BertModel(
        transformers.BertConfig(**SMALL, num_attention_heads=2, intermediate_size=32, max_position_embeddings=48)
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    for name, make in MAKERS.items():
        make().eval().save_pretrained(root / name)
    return {name: root / name for name in MAKERS}


def analysed(folder: Path, **settings: object) -> ModelResult:
    return diagnose(RunSpec(models=(str(folder),), **{"length": 12, "batch": 2, **settings})).models[0]


@pytest.mark.parametrize("name", MAKERS)
def test_influence_is_the_gradient_by_the_input_embeddings(name: str, folders: dict[str, Path]) -> None:
    found = analysed(folders[name], loss="final")
    kind = transformers.AutoModel if name == "bert" else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folders[name], attn_implementation="eager", dtype=torch.float64).eval()
    ids = torch.randint(300, (2, 12), generator=torch.Generator().manual_seed(0))
    leaf = model.get_input_embeddings()(ids).detach().requires_grad_()
    torch.set_default_dtype(torch.float64)
    output = model(inputs_embeds=leaf, **({} if name == "bert" else {"use_cache": False}))
    torch.set_default_dtype(torch.float32)
    y = output["logits"] if "logits" in output else output["last_hidden_state"]
    from gradscope.sequences.losses import direction

    (gradient,) = torch.autograd.grad((y[:, -1] @ direction(0, y.shape[-1]).to(y)).sum(), leaf)
    expected = gradient.norm(dim=-1).log10().mean(0)
    assert found.series.values["log10_grad_input"] == pytest.approx(expected.tolist(), abs=1e-9)
    assert found.loaded.trained


def test_bidirectional_encoders_are_not_causal_and_the_others_are(folders: dict[str, Path]) -> None:
    results = {name: analysed(folder) for name, folder in folders.items()}
    assert results["bert"].summary.reach is None
    assert "reads the future" in results["bert"].skipped["reach"]
    assert all(results[name].summary.reach is not None for name in ("gpt2", "mamba", "rwkv"))


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_attention_maps_by_layer_and_head(name: str, folders: dict[str, Path]) -> None:
    found = analysed(folders[name])
    weights = torch.tensor(found.attention.weights)
    assert weights.shape == (2, 2, 12, 12)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 2, 12), atol=1e-6)
    assert bool((weights.triu(1) > 0).any()) == (name == "bert")


def test_text_by_bytes_through_the_models_own_head(folders: dict[str, Path]) -> None:
    asked = {"text": "to be or not to be", "tokens": "byte", "loss": "ce", "pair": ("t:n",)}
    found = analysed(folders["gpt2"], length=None, batch=None, **asked)
    assert found.series.token[:5] == ("t", "o", " ", "b", "e")
    assert (found.length, found.summary.needed_lag) == (18, 16)
    assert found.pairs[0].of == 10
    assert any("head 1" in path.path for path in found.pairs[0].paths)
    assert any("own head" in note for note in found.notes)


def test_text_through_the_folders_tokenizer(folders: dict[str, Path], tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {word: place for place, word in enumerate(["<unk>", "the", "cat", "was", "here", "."])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    MAKERS["gpt2"]().save_pretrained(tmp_path)
    fast.save_pretrained(tmp_path)
    found = analysed(tmp_path, text="the cat was here . the cat", length=None, batch=None)
    assert found.series.token == ("the", "cat", "was", "here", ".", "the", "cat")


def test_sequences_fit_the_positions_that_the_model_has(folders: dict[str, Path]) -> None:
    found = analysed(folders["gpt2"], length=None)
    assert found.length == 48
    assert any("takes no more" in note for note in found.notes)
    with pytest.raises(UsageError, match="--length 48 or less"):
        analysed(folders["gpt2"], length=60)


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


def test_nothing_in_a_folder_is_run(folders: dict[str, Path], tmp_path: Path) -> None:
    folder, touched = tmp_path / "evil", tmp_path / "touched"
    MAKERS["gpt2"]().save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"x": Evil(touched)}))
    with pytest.raises(UsageError, match="cannot be loaded") as caught:
        analysed(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "mine.Config"}, "model_type": "mine"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(touched)!r}, 'w')")
    with pytest.raises(UsageError, match="cannot be loaded"):
        analysed(folder)
    assert not touched.exists()
    assert "\n" not in str(caught.value)


def test_missing_weights_are_not_drawn_at_random(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    MAKERS["bert"]().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("query.weight")))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"lacks 1 weights \(.*query.weight\)"):
        analysed(tmp_path)


def test_ids_from_the_api_are_checked(folders: dict[str, Path]) -> None:
    report = gradscope.analyze(str(folders["gpt2"]), torch.tensor([[1, 2, 3, 4, 299]]))
    assert report.models[0].length == 5
    with pytest.raises(UsageError, match=r"token id 300 is outside 0\.\.299"):
        gradscope.analyze(str(folders["gpt2"]), torch.tensor([[1, 2, 300]]))
