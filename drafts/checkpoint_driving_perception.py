"""Train the weights that notebooks/vision/driving_perception loads in the laptop profile, anew.

`python book/checkpoints/driving_perception.py` from the repository's root runs the chapter's own
script in the full profile, which trains the detector, and writes the weights beside this file.
"""

import os
import runpy
from pathlib import Path

os.environ["KARPA_PROFILE"] = "full"
page = runpy.run_path("notebooks/vision/driving_perception.py")

from safetensors.torch import save_file  # noqa: E402  (after karpa_utils, which sets the pins)

weights = {k: v.detach().cpu().contiguous() for k, v in page["camera"].state_dict().items()}
halves = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
save_file(halves, Path(__file__).with_suffix(".safetensors"))
