"""Mode "auto": step times of a machine, figures of a checkpoint, choice of a mode. Torch-free."""
