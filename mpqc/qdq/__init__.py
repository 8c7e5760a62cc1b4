"""The waist: a plan as standard QDQ ONNX, and what a QDQ file means."""
