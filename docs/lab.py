# %% [markdown]
# # From MRC files to STAR files
#
# The lab road in ten minutes, most of which is waiting: tomograms as MRC files, picks by the model `small` of the
# package, a look at them, STAR files for RELION 5. The tomograms are simulated here, so this runs anywhere that
# `pip install 'tomopoint[cpu,train,lab]' ipykernel` did; with tomograms of your own start at *Predict*.
# Generated from `docs/lab.py`; edit that file, then `make kernels`.

# %%
import os
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import mrcfile
import pandas as pd

from tomopoint.data.project import Project
from tomopoint.data.tomograms import read_tomogram

os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `tomopoint` of this Python
SHAPE = os.environ.get("LAB_SHAPE", "96,256,256")  # voxels along z, y, x

# %% [markdown]
# ## Simulate
#
# One small tomogram, written as reconstruction programs write theirs: MRC, protein light. What is in it is known,
# because it is simulated: scores of it are simulated scores, and say nothing about real tomograms.

# %%
# !tomopoint simulate simulated --train-runs 0 --test-runs 1 --shape {SHAPE}
Path("tomograms").mkdir(exist_ok=True)
for run in Project(Path("simulated")).runs("test"):
    tomogram = read_tomogram(run.tomogram_path())
    with mrcfile.new(f"tomograms/{run.name}.mrc", data=-tomogram.volume_zyx, overwrite=True) as file:
        file.voxel_size = tomogram.voxel_A

# %% [markdown]
# ## Predict
#
# `--data` is the folder with the MRC files. Voxel size and contrast are read from them, and the summary says how.

# %%
# !tomopoint predict --data tomograms --model small --out picks

# %% [markdown]
# ## Look
#
# All picks with their scores are in `picks/picks.csv`, those above the model's thresholds in `picks/submission.csv`;
# positions are x, y, z in Angstrom from the corner of the first voxel. Here is the slab with the most picks.

# %%
picks = pd.read_csv("picks/submission.csv")
path = sorted(Path("tomograms").glob("*.mrc"))[0]
shown = read_tomogram(path)
mine = picks[picks.experiment == path.stem]
slab = (mine.z / shown.voxel_A // 20).astype(int)
index = int(slab.mode()[0])
figure, axes = plt.subplots(figsize=(7, 7))
axes.imshow(shown.volume_zyx[20 * index : 20 * index + 20].mean(axis=0), cmap="gray_r")
for particle, group in mine[slab == index].groupby("particle_type"):
    axes.scatter(group.x / shown.voxel_A, group.y / shown.voxel_A, s=120, facecolors="none", label=particle)
for collection, colour in zip(axes.collections, plt.cm.tab10.colors, strict=False):
    collection.set_edgecolor(colour)
axes.set(title=f"{path.stem}, 20 voxels of z", xlabel="x (voxels)", ylabel="y (voxels)")
axes.legend()
figure.savefig("picks/slab.png")

# %%
# !tomopoint score picks/submission.csv --truth simulated/truth

# %% [markdown]
# ## Hand over
#
# A STAR file for RELION 5 per kind of particle, in its centred Angstrom: see
# [formats and coordinates](formats.md), which has the other programs as well.

# %%
# !tomopoint export-picks picks --format relion5 --data tomograms -o star
print(*sorted(path.name for path in Path("star").iterdir()))
