"""A launcher of hydra's that hands runs to SLURM and goes: `fairseq-hydra-train -m
hydra/launcher=dependency_submitit_slurm ...`.
"""
