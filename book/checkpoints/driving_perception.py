"""Train the weights that notebooks/vision/driving_perception loads in the laptop profile, anew.

`python book/checkpoints/driving_perception.py` from the repository's root runs the chapter's own
cells, in the full profile, as far as `train_camera`, calls it, and writes the weights and a record
of the run beside this file. A run that was interrupted goes on where it was.
"""

import hashlib
import json
import os
import platform
import tempfile
import time
from datetime import date
from pathlib import Path

os.environ["KARPA_PROFILE"] = "full"
here, chapter = Path(__file__), Path("notebooks/vision/driving_perception.py")
cells = chapter.read_text(encoding="utf-8").split("\n# %%")
last = next(k for k, cell in enumerate(cells) if "\ndef train_camera" in cell)
page = {"__name__": "__main__"}
exec(compile("\n# %%".join(cells[: last + 1]), str(chapter), "exec"), page)

import torch  # noqa: E402  (after karpa_utils, which sets the pins)
from safetensors.torch import save_file  # noqa: E402

started, state = time.time(), Path(tempfile.gettempdir()) / f"{here.stem}.training"
camera = page["train_camera"](checkpoint=state)
weights = {k: v.detach().cpu().contiguous() for k, v in camera.state_dict().items()}
halves = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
file = here.with_suffix(".safetensors")
save_file(halves, file)
device = page["device"].type
hardware = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()}-core CPU"
record = {
    "command": f"python book/checkpoints/{here.name}",
    "profile": "full",
    "seconds": round(time.time() - started),
    "hardware": f"{hardware}, {platform.machine()}, {torch.get_num_threads()} thread(s) used",
    "versions": {"python": platform.python_version(), "torch": torch.__version__},
    "date": date.today().isoformat(),
    "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
}
here.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
state.unlink(missing_ok=True)
