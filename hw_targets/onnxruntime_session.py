"""ONNX Runtime sessions: providers by short names, threads, optimisation."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import TYPE_CHECKING, Any

from rsc.errors import TargetFault
from rsc.results import Unavailable

if TYPE_CHECKING:
    import onnxruntime

# short name -> (provider, its options)
PROVIDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu": ("CPUExecutionProvider", {}),
    "cuda": ("CUDAExecutionProvider", {"use_tf32": 0}),  # products rounded to 11 bits flip spikes
    "tensorrt": ("TensorrtExecutionProvider", {}),
    "directml": ("DmlExecutionProvider", {}),
    "coreml": ("CoreMLExecutionProvider", {}),
    "openvino": ("OpenVINOExecutionProvider", {}),
    "rocm": ("ROCMExecutionProvider", {}),
    "migraphx": ("MIGraphXExecutionProvider", {}),
    "xnnpack": ("XnnpackExecutionProvider", {}),
    "webgpu": ("WebGpuExecutionProvider", {}),
}


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how a model runs.

    Fields:
        provider: a key of `PROVIDERS`; what it cannot run falls to the CPU.
        threads: inside one operation; 0 leaves it to ONNX Runtime (one for each core).
    """

    provider: str = "cpu"
    threads: int = 0

    def available(self) -> Unavailable | None:
        """None if ONNX Runtime is here and was built with the provider."""
        if importlib.util.find_spec("onnxruntime") is None:
            return Unavailable("onnxruntime is not installed.", "pip install onnxruntime")
        import onnxruntime

        name, _ = PROVIDERS[self.provider]
        if name in onnxruntime.get_available_providers():
            return None
        have = [k for k, (n, _) in PROVIDERS.items() if n in onnxruntime.get_available_providers()]
        return Unavailable(
            f"This build of ONNX Runtime has no {name}; it has {', '.join(have)}.",
            "Use one of these, or install the build with it, e.g. onnxruntime-gpu for cuda.",
        )

    @property
    def version(self) -> str:
        """Of ONNX Runtime, and the provider; it must be installed."""
        import onnxruntime

        return f"{onnxruntime.__version__} {self.provider}"

    def session(self, model: bytes) -> onnxruntime.InferenceSession:
        """A session with full graph optimisation and threads that do not spin while they wait.

        Raises:
            TargetFault: ONNX Runtime refuses the model.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = self.threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        name, settings = PROVIDERS[self.provider]
        chosen: list[Any] = [(name, settings)]
        if self.provider != "cpu":
            chosen.append(PROVIDERS["cpu"])
        try:
            return onnxruntime.InferenceSession(model, options, providers=chosen)
        except Exception as error:  # its errors have no common class
            raise TargetFault(
                "ONNX Runtime does not take the model.", str(error)[:500], "Report it with this message."
            ) from error
