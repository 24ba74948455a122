# %% [markdown]
# # tomopoint: submit
#
# Needs the competition's data, the dataset staged by `tomopoint stage` and, to save time, the output of
# *tomopoint build engine*. Leaves `submission.csv`.
# Generated from `kernels/submit/submit.py`; edit that file, then `make kernels`.

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
from tomopoint.kaggle import submit

result = submit.run(ROOT)

# %%
print(result.text)
result.table

# %%
from tomopoint.inference.command import verify
from tomopoint.kaggle.inputs import find_competition

print(verify(result.submission_path, data=find_competition(ROOT)).text)
