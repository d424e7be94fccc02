"""The CPU engine: the decoder as an ONNX graph, built here and run by ONNX Runtime. Torch-free."""
