"""A hydra launcher that submits runs to SLURM and does not wait for them.

Use it with `fairseq-hydra-train -m hydra/launcher=dependency_submitit_slurm ...`.
"""
