"""The same work on other machines, by Dask: one command on a laptop, a SLURM queue, or three workstations."""
