"""Digits by majority vote with numpy and ONNX Runtime alone: python onnx_digits.py MODEL.onnx DIGITS.npz

MODEL.onnx: rsc export BUNDLE --to onnx --noise graph --votes 15.
DIGITS.npz: images float32 [B, 1, 8, 8] in 0..1, and targets [B].
"""

import sys

import numpy as np
import onnxruntime

model = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
digits = np.load(sys.argv[2])
answers = model.run(["votes", "prediction"], {"image": digits["images"]})
votes, prediction = (np.asarray(answer) for answer in answers)
print(f"{len(votes)} digits, {votes[0].sum()} noisy runs each")
print(f"accuracy {(prediction == digits['targets']).mean():.3f}")
