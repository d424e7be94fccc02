"""What "auto" goes by: a machine's step times, a checkpoint's figures, and the choice of a mode.

Torch-free. The engine measures with it and the host chooses with it; decoding needs none of it.
"""
