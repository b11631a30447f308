"""The forms that a model can be converted to. No TensorFlow here: the command line lists them at once."""

from __future__ import annotations

LITERT_FLOAT16, LITERT_INT8, ONNX, BFLOAT16 = "litert-float16", "litert-int8", "onnx", "bfloat16"

# target -> what it is, for people
TARGETS = {
    LITERT_FLOAT16: "LiteRT (TensorFlow Lite) with float16 weights",
    LITERT_INT8: "LiteRT (TensorFlow Lite) in int8 behind a float normalisation and before a float head",
    ONNX: "ONNX in float32",
    BFLOAT16: "SavedModel in bfloat16 behind a float32 normalisation and before a float32 head",
}
LITERT_SUFFIX, ONNX_SUFFIX = ".tflite", ".onnx"
# names of the files beside a converted model
README_FILE, EXAMPLE_FILE = "README.txt", "predict.py"
REPORT_FILE, REPORT_MARKDOWN = "difference.json", "difference.md"
