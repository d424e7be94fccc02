"""The CPU engine: the decoder as one ONNX graph of our own, run by ONNX Runtime. No torch."""
