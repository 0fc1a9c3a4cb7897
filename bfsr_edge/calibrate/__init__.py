"""Calibration: faces and a float32 ONNX file to the scales of its INT8 graph, and what that costs."""
