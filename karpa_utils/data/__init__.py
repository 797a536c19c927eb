"""The book's data sets: one registry of sources, one loader each.

`registry()` describes all of them without loading any; `fetch()` brings a file here, checked; a
loader such as `mnist()` returns the embedded or the public set according to the profile.
`minilm()` is the one pretrained model, kept and checked like a data set.
"""

from karpa_utils.data.folders import image_folder
from karpa_utils.data.generated import Shapes, shapes
from karpa_utils.data.images import (
    Images,
    cifar10,
    cifar10_jpeg75,
    fashion_mnist,
    mnist,
    pneumoniamnist_rebuilt,
    warp,
)
from karpa_utils.data.lesions import Lesions, lesions
from karpa_utils.data.pretrained import (
    Encoder,
    chapter_weights,
    minilm,
    minilm_folder,
    sentence_vectors,
)
from karpa_utils.data.scenes import Scenes, road_scenes
from karpa_utils.data.sources import fetch, registry, source, unpack
from karpa_utils.data.tables import Lending, Records, lending, loanapp, loanapp_raw, recid
from karpa_utils.data.text import Questions, Sentences, Texts, entities, headlines, questions

__all__ = [
    "Encoder",
    "Images",
    "Lending",
    "Lesions",
    "Questions",
    "Records",
    "Scenes",
    "Sentences",
    "Shapes",
    "Texts",
    "chapter_weights",
    "cifar10",
    "cifar10_jpeg75",
    "entities",
    "fashion_mnist",
    "fetch",
    "headlines",
    "image_folder",
    "lending",
    "lesions",
    "loanapp",
    "loanapp_raw",
    "minilm",
    "minilm_folder",
    "mnist",
    "pneumoniamnist_rebuilt",
    "questions",
    "recid",
    "registry",
    "road_scenes",
    "sentence_vectors",
    "shapes",
    "source",
    "unpack",
    "warp",
]
