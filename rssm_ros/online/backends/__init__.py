"""What computes a bundle's graphs: one small interface, chosen by name, proven before it is used.

`backend` says what a backend is and finds one by its name, `onnx` has those of onnxruntime, `fallback` puts
the CPU behind one that may vanish, `parity` compares two of them.
"""
