"""A Hugging Face directory as a model: local files alone, no code of theirs, every weight in its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.loading.source import Source
from gradscope.models.direct import Direct
from gradscope.records import Loaded, RunSpec
from gradscope.text import safe_text

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def source_from_directory(word: str, spec: RunSpec) -> Source:
    """The model of the folder, with its language head where its configuration names one.

    Raises:
        UsageError: transformers is missing, or the folder is not a whole model that runs without code of its own.
    """
    shown = safe_text(word)
    try:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import transformers
    except ImportError as error:
        raise UsageError(f"'{shown}' needs transformers: install gradscope with its [hf] extra") from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(word, **LOCAL)
        speaks = any("CausalLM" in name or "LMHead" in name for name in config.architectures or ())
        kind = transformers.AutoModelForCausalLM if speaks else transformers.AutoModel
        module, report = kind.from_pretrained(
            word, attn_implementation="eager", dtype=getattr(torch, spec.dtype), output_loading_info=True, **LOCAL
        )
    except Exception as error:
        what = f"{type(error).__name__}: {safe_text(str(error).splitlines()[0] if str(error) else '', 120)}"
        raise UsageError(f"'{shown}' cannot be loaded as it lies ({what}); save it with save_pretrained") from error
    if missing := sorted(report["missing_keys"]):
        listed = ", ".join(safe_text(name, 60) for name in missing[:3])
        lacks = f"'{shown}' lacks {len(missing)} weights ({listed}), which would be random"
        raise UsageError(f"{lacks}; save the whole model")
    speaker = _speaker(word, module.to(spec.device).eval(), config)
    place = f"{type(module).__name__} of {shown}"
    loaded = Loaded(place, (f"{type(module).__name__}, eager attention, no remote code",), trained=True)
    return Source(Path(word).resolve().name, lambda _size, _seed: speaker, speaker.input_size, loaded, speaker)


def _speaker(word: str, module: Any, config: Any) -> Direct:
    width, spoken = int(getattr(config, "hidden_size", 0)) or None, Spoken(module)
    embedding = module.get_input_embeddings()
    with torch.no_grad():
        looks = spoken.attentions(torch.zeros(1, 2, dtype=torch.int64, device=module.device))
    return Direct(
        Path(word).resolve().name,
        spoken,
        int(embedding.weight.shape[1]),
        kind="attention" if looks else "module",
        weights=spoken.attentions if looks else None,
        trained=True,
        vocabulary=int(embedding.weight.shape[0]),
        tokenize=_tokenizer(word),
        longest=getattr(config, "max_position_embeddings", None),
        width=width,
    )


def _tokenizer(word: str) -> Any:
    """Text -> ids and tokens; None for a folder without a tokenizer."""
    import transformers

    files = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")
    if not any((Path(word) / name).is_file() for name in files):
        return None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(word, **LOCAL)
    except Exception as error:
        what = safe_text(str(error).splitlines()[0] if str(error) else type(error).__name__, 120)
        raise UsageError(f"the tokenizer in '{safe_text(word)}' cannot be loaded ({what}); save it again") from error

    def tokenize(text: str) -> tuple[list[int], list[str]]:
        ids = tokenizer(text)["input_ids"]
        return ids, [tokenizer.decode([number]) for number in ids]

    return tokenize


class Spoken(nn.Module):
    """Token ids -> logits, or the last hidden states of a model without a head."""

    def __init__(self, inner: Any) -> None:
        """Take the model."""
        super().__init__()
        self.inner = inner

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, T) -> (batch, T, features)."""
        found = self.inner(input_ids=ids, use_cache=False, return_dict=True) if _caches(self.inner) else self.inner(ids)
        result: Tensor = found["logits"] if "logits" in found else found["last_hidden_state"]
        return result

    def attentions(self, ids: Tensor) -> list[Tensor]:
        """Weights by layer, (batch, heads, T, T); empty for a model that has none."""
        try:
            found = self.inner(input_ids=ids, output_attentions=True, return_dict=True)
        except (TypeError, ValueError):
            return []
        weights = found.get("attentions") if hasattr(found, "get") else None
        return [w for w in weights or () if isinstance(w, Tensor) and w.ndim == 4 and w.shape[-1] == w.shape[-2]]


def _caches(module: Any) -> bool:
    return bool(getattr(module.config, "use_cache", None) is not None)
