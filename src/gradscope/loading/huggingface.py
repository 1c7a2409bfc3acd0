"""A Hugging Face folder as a model: classes of the installed library, local files, no code out of the folder."""

from __future__ import annotations

import importlib
import importlib.util
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gradscope.errors import UsageError
from gradscope.files.paths import existing_file
from gradscope.files.torch_file import WantsCodeError, listed
from gradscope.files.weights_file import read_part
from gradscope.loading.source import Source
from gradscope.models.token_models import Encode, Pretrained, TokenIds
from gradscope.models.whole_module import WholeModule
from gradscope.records import Loaded, RunSpec
from gradscope.registry import FAMILIES
from gradscope.text import safe_text

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the better one first; `NAME.index.json` lists those of a model that is saved in parts."""
TOKENIZERS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
)
"""Files of which a tokenizer has one: where there is none the library makes up an empty tokenizer."""
HIDDEN = ("final", "every", "mse")
"""Losses that read the last hidden states; the others read what a language model's own head makes of them."""
MOST_LAYERS = 512
"""Layers that a configuration may ask for beyond one a tensor: an honest one shares weights among a few."""
HEADS = ("ForCausalLM", "LMHeadModel")


def source_from_directory(word: str, spec: RunSpec) -> Source:
    """The model in folder `word`, in evaluation mode, differentiated with respect to its input embeddings.

    Raises:
        UsageError: no such model, weights that are damaged or missing, code of its own, or no library to build it.
    """
    folder, shown = Path(word), safe_text(word)
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"'{shown}' is a folder without {CONFIG}; name a Hugging Face folder, a file of weights, or file.py:attr"
        )
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(f"'{shown}' is a Hugging Face folder; install transformers (the extra [hf]) to load it")
    try:
        with _quietly():
            module, assumed = _load(folder, spec)
            encode = _tokenizer(folder) if _reads_text(spec) else None
    except UsageError:
        raise
    except Exception as error:
        remedy = "give its class as file.py:attr with --weights"
        raise UsageError(f"'{shown}' cannot be loaded by transformers ({_reason(error)}); {remedy}") from error
    module.to(spec.device, getattr(torch, spec.dtype))
    ids = TokenIds(module.embedding.num_embeddings, module.width, module.longest, encode)
    name = folder.resolve().name
    name = word if name in FAMILIES else name
    model = WholeModule(
        name,
        module,
        module.embedding.embedding_dim,
        kind="attention" if module.attends else "module",
        ids=ids,
        closed=module.closed,
        weights=module.weights if module.attends else None,
        carried=module.carried,
    )
    loaded = Loaded(f"{shown}: {type(module.inner).__name__}", assumed, trained=True)
    return Source(name, lambda _size, _seed: model, model.input_size, loaded, ids)


def _load(folder: Path, spec: RunSpec) -> tuple[Pretrained, tuple[str, ...]]:
    transformers: Any = importlib.import_module("transformers")
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    built = str((getattr(config, "architectures", None) or [""])[0])
    head = spec.loss not in HIDDEN and built.endswith(HEADS)
    auto = transformers.AutoModelForCausalLM if head else transformers.AutoModel
    # Read here, not there: these readers run no code and check what they read.
    weights, shown = _weights(folder), safe_text(folder)
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > max(MOST_LAYERS, len(weights)):
        raise UsageError(
            f"'{shown}' has {len(weights)} tensors and says it has {layers:,} layers; get its {CONFIG} again"
        )
    with torch.device("meta"):
        blank = auto.from_config(config, trust_remote_code=False)
    _same_shapes(blank, weights, shown)
    kind = type(blank)
    model, report = kind.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        attn_implementation="eager",
        output_loading_info=True,
        dtype=getattr(torch, spec.dtype),
    )
    assumed = (f"{kind.__name__}, its {'logits' if head else 'last hidden states'}",)
    if getattr(config, "is_encoder_decoder", False):
        model, assumed = model.get_encoder(), (f"{kind.__name__}, the last hidden states of its encoder alone",)
    if not isinstance(model.get_input_embeddings(), nn.Embedding):
        raise UsageError(f"'{shown}' is a {kind.__name__}, which takes no token ids; use file.py:attr")
    module = Pretrained(model, head=head)
    _require_all(module, report["missing_keys"], shown)
    return module, assumed


def _same_shapes(blank: Any, weights: Mapping[str, Tensor], shown: str) -> None:
    """Refuse weights of other sizes than the configuration says, before anything of these sizes is made.

    Raises:
        UsageError: names the first.
    """
    prefix = f"{getattr(blank, 'base_model_prefix', '')}."
    for name, wanted in blank.state_dict().items():
        names = (name, prefix + name, name.removeprefix(prefix))
        found = next((weights[one] for one in names if one in weights), wanted)
        if found.shape != wanted.shape:
            shapes = f"{tuple(found.shape)}, its {CONFIG} says {tuple(wanted.shape)}"
            raise UsageError(f"'{shown}' has {safe_text(name, 60)} of shape {shapes}; get both files from one place")


def _require_all(module: Pretrained, missing: set[str], shown: str) -> None:
    """Refuse a model of which the library drew weights by chance; those that no output reads do no harm.

    Raises:
        UsageError: names them.
    """
    drawn = {name: p for name, p in module.inner.named_parameters() if name in missing}
    lost = sorted(name for name in missing if name not in drawn)
    if drawn:
        with torch.enable_grad():
            output = module(torch.zeros(1, 2, dtype=torch.int64)).sum()
            read = torch.autograd.grad(output, list(drawn.values()), allow_unused=True)
        lost += [name for name, gradient in zip(drawn, read, strict=True) if gradient is not None]
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        names = ", ".join(safe_text(name, 60) for name in lost[:3]) + more
        raise UsageError(f"'{shown}' has no {names}, which its {CONFIG} asks for; save the whole model again")


def _weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model by name, from one file or from its parts.

    Raises:
        UsageError: none, damaged, or one that wants to run code.
    """
    shown = safe_text(folder)
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        parts = _parts(index) if index.is_file() and not (folder / name).is_file() else [name]
        if not (folder / parts[0]).is_file():
            continue
        found: dict[str, Tensor] = {}
        for part in parts:
            try:
                found |= read_part(existing_file(str(folder / part), "model"), "model")
            except WantsCodeError as error:
                wants = f"'{shown}/{safe_text(part)}' is no plain data, it wants {listed(error.wanted)}"
                raise UsageError(f"{wants}; save the model again as safetensors") from error
        return found
    raise UsageError(f"'{shown}' holds no weights ({' or '.join(WEIGHTS)}); download all files of the model")


def _parts(index: Path) -> list[str]:
    """Names of the files that hold a model in parts.

    Raises:
        UsageError: not such a list, or a path that leaves the folder.
    """
    try:
        names: Mapping[str, Any] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        parts = sorted({str(name) for name in names.values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"'{safe_text(index)}' lists no files of weights; get it again") from error
    if not parts or any(Path(part).name != part for part in parts):
        raise UsageError(f"'{safe_text(index)}' names files outside its folder, or none; do not use it")
    return parts


def _reads_text(spec: RunSpec) -> bool:
    return spec.vocab is None and (spec.text is not None or (spec.input or "").lower().endswith(".txt"))


def _tokenizer(folder: Path) -> Encode | None:
    """Text -> ids and the pieces of the text they stand for; None without files of a tokenizer."""
    if not any((folder / name).is_file() for name in TOKENIZERS):
        return None
    auto: Any = importlib.import_module("transformers").AutoTokenizer
    try:
        tokenizer = auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        what = f"the tokenizer of '{safe_text(folder)}' cannot be loaded ({_reason(error)})"
        raise UsageError(f"{what}; get its files again, or name tokens with --vocab FILE") from error

    def encode(text: str) -> tuple[list[int], list[str]]:
        with _quietly():
            found = tokenizer(text, return_offsets_mapping=tokenizer.is_fast)
        ids = [int(one) for one in found["input_ids"]]
        names = [str(name) for name in tokenizer.convert_ids_to_tokens(ids)]
        spans = found["offset_mapping"] if tokenizer.is_fast else [(0, 0)] * len(ids)
        return ids, [text[a:b].strip() or text[a:b] or name for (a, b), name in zip(spans, names, strict=True)]

    return encode


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {safe_text(' '.join(str(error).split()), 160)}"


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the library's bars and remarks."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging: Any = importlib.import_module("transformers.utils.logging")
        level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity(logging.CRITICAL)
        logging.disable_progress_bar()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bar:
                logging.enable_progress_bar()
