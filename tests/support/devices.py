"""The devices that the length methods are tested on: the CPU, and a GPU where there is one."""

import torch

CPU = torch.device("cpu")

GPUS = [torch.device("cuda:0")] if torch.cuda.is_available() else []

DEVICES = [CPU, *GPUS]
"""Those of torch's tensors; NumPy's arrays have none."""
