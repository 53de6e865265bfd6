"""Run an exported model with onnxruntime and numpy alone, without torch and without this project.

python src/export.py <run folder> format=onnx preprocessing=graph
python examples/run_onnx.py <run folder>/quantized.onnx images.npy [labels.npy]

images.npy: uint8 [N, height, width, channels], RGB or grey; labels.npy: N numbers of classes.
"""

import sys

import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
images = np.load(sys.argv[2])
batches = np.array_split(images, max(1, -(-len(images) // 64)))
classes = np.concatenate([session.run(None, {"images": batch})[0].argmax(1) for batch in batches])
print(*classes)
if len(sys.argv) > 3:
    print(f"top-1 {100 * np.mean(classes == np.load(sys.argv[3])):.2f} %")
