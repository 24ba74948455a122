# %% [markdown]
# # tomopoint: build the engine
#
# Needs one input, the dataset staged by `tomopoint stage`. Leaves `engine.json`: which runtime may be trusted with
# the graph on this machine and is the fastest of those, how far it is from PyTorch, and how many hours the
# competition's tomograms would take. Ends in an error where that is more than a notebook has. Attach its output to
# *tomopoint submit*.
# Generated from `kernels/build_engine/build_engine.py`; edit that file, then `make kernels`.

# %%
import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(os.environ.get("KAGGLE_ROOT", "/kaggle"))
manifests = [*ROOT.glob("input/*/manifest.json"), *ROOT.glob("input/datasets/*/*/manifest.json")]
kits = [path.parent for path in manifests if b"tomopoint-kit" in path.read_bytes()]
assert kits, f"no kit in {ROOT}/input: attach the dataset of `tomopoint stage` (Add Input > Datasets), then run again"

# %%
packages = ROOT / "temp" / "packages"  # beside the image's packages, never over them
names = json.loads((kits[0] / "manifest.json").read_text())["install"]
exact = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!]*")  # no option, path or address for pip
assert all(exact.fullmatch(name) for name in names), f"{kits[0]} asks for more than packages: stage the kit again"
pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--upgrade", "--no-compile"]
subprocess.run([*pip, "--target", str(packages), "--find-links", str(kits[0]), *names], check=True)
sys.path.insert(0, str(packages))
os.environ["PYTHONPATH"] = os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])])

# %%
import logging

from tomopoint.kaggle import engine_kernel

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)  # a build takes many minutes
result = engine_kernel.run(ROOT)

# %%
print(result.text)
assert result.ok, result.why_not
