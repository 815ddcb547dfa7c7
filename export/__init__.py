"""The student: distilled from the promoted teacher, exported to ONNX, run without torch."""
