"""Commands. Torch must not load device plug-ins by itself when it is imported: the device layer does that once the config says which."""

import os

os.environ.setdefault("TORCH_DEVICE_BACKEND_AUTOLOAD", "0")  # every command's modules import this package before they import torch
