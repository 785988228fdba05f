"""Commands. Torch must not load device plug-ins by itself when it is imported: the device layer does that once the config says which."""

import os

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")  # every command's modules import this package before they import torch

# whether OpenMP's threads sleep while they wait for each other: faster where other programs run, slower where none does
WAIT_PASSIVELY = False
if WAIT_PASSIVELY:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
