"""Build what the page needs into examples/web/vendor: the runtime, a digits model, and its fan-outs.

    python examples/web/build.py [BUNDLE] [--epochs 10] [--votes 15] [--out FOLDER]
    python -m http.server -d examples/web

Without BUNDLE a small RSC-II network is trained first (under a minute on one core). onnxruntime-web comes
from npm, once, at a fixed version and digest; the page itself loads nothing from another host.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import nir
import numpy as np
from onnx import ModelProto

from rsc import data, pipeline
from rsc.bundle import Bundle
from rsc.energy import FanOut, count, fan_outs
from rsc.energy.edges import SPIKING, open_net
from rsc.errors import InputRefused, TargetUnavailable
from rsc.export.onnx import OnnxForm, to_onnx
from rsc.export.onnx_reader import read_onnx
from rsc.files import write_atomic
from rsc.hw_targets.onnxruntime_proof import write_proven
from rsc.program import Program
from rsc.results import SpikeRecord
from rsc.training import EncoderConfig, TrainConfig

HERE = Path(__file__).parent
RUNTIME, VERSION = "onnxruntime-web", "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = {
    "package/dist/ort.wasm.bundle.min.mjs": "ort.js",  # .js and .wasm have a MIME type on every server
    "package/dist/ort-wasm-simd-threaded.wasm": "ort.wasm",
}
SETTINGS = ("sigma", "steps", "runs")
PROOF = 4  # test images that the model is proven on


def build(bundle: Bundle, out: Path, votes: int = 15) -> None:
    """Write digits.onnx and digits.json beside the runtime, which is fetched if it is not there."""
    out.mkdir(parents=True, exist_ok=True)
    fetch_runtime(out)
    form = OnnxForm(feed="graph", votes=votes, counts=True)
    write_model(bundle.program, form, out / "digits.onnx")
    text = json.dumps(facts(bundle, votes), separators=(",", ":"))
    write_atomic(out / "digits.json", text.encode() + b"\n")


def write_model(program: Program, form: OnnxForm, path: Path) -> None:
    """Prove a model on test digits, then write it with all its inputs required.

    onnxruntime-web refuses to be fed inputs that have a default, so sigma, steps and runs lose theirs; the
    page feeds them always.
    """
    images = np.asarray(data.load("digits", "test").head(PROOF).images)
    with tempfile.TemporaryDirectory() as folder:
        proven = Path(folder) / path.name
        write_proven(program, to_onnx(program, form), form, proven, images)
        model = without_defaults(read_onnx(proven))
    write_atomic(path, model.SerializeToString())


def without_defaults(model: ModelProto) -> ModelProto:
    """The model with `SETTINGS` as plain inputs."""
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in SETTINGS]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def facts(bundle: Bundle, votes: int) -> dict[str, Any]:
    """What the page must know beside the model: defaults, layers with their fan-outs, examples."""
    program, test = bundle.program, data.load("digits", "test")
    spec = program.encoder
    if spec is None or tuple(program.input_shape) != test.images.shape[1:]:
        raise InputRefused(
            "This bundle does not classify digits.",
            f"Its input is {tuple(program.input_shape)}, its encoder {spec and spec.kind}.",
            "Train one on scikit-learn's digits, e.g. from examples/configs/digits_rsc2.toml.",
        )
    first = [int(np.flatnonzero(np.asarray(test.targets) == k)[0]) for k in range(len(test.labels))]
    return {
        "name": bundle.name,
        "digest": program.digest,
        "labels": list(program.labels or test.labels),
        "shape": list(program.input_shape),
        "encoder": spec.kind,
        "defaults": {"sigma": spec.sigma, "steps": spec.steps, "runs": votes},
        "accuracy": bundle.metrics.get("clean_accuracy_vote", {}).get("value"),
        "runtime": f"{RUNTIME} {VERSION}",
        **operations(program),
        "examples": [
            {"label": test.labels[k], "pixels": np.rint(np.ravel(test.images[i]) * 16).astype(int).tolist()}
            for k, i in enumerate(first)
        ],
    }


def operations(program: Program) -> dict[str, Any]:
    """Populations with their neurons; edges with the fan-out of every site; MACs of graded layers per step.

    Raises:
        InputRefused: an edge is delayed; which of its last spikes arrive is not in the spike counts.
    """
    net, maps = open_net(program), fan_outs(program)
    senders = {name for name, node in net.nodes.items() if isinstance(node, SPIKING)} | set(program.inputs)
    silent = SpikeRecord({name: np.zeros((1, *net.shapes[name]), np.int64) for name in senders})
    layers = count(program, silent, steps=1).nodes
    order = {name: place for place, name in enumerate(net.nodes)}
    populations = [
        {"node": n.node, "kind": n.kind, "neurons": n.neurons, "shape": list(n.shape)}
        for n in layers
        if n.neurons
    ]
    graded = [
        {"target": layer.node, "sources": list(layer.sources), "mac": int(layer.per_pass("mac")[0])}
        for layer in layers
        if not layer.binary and layer.params
    ]
    found = [m for layer in layers if layer.binary for m in maps.get(layer.node, ())]
    for edge in (m.edge for m in found):
        if edge.lag or any(isinstance(net.nodes[name], nir.Delay) for name in edge.path):
            raise InputRefused(
                f"The edge from '{edge.source}' to '{edge.target}' is delayed.",
                "How many of its spikes arrive within T steps is not in the spike counts.",
                "Use a network without delays and cycles.",
            )
    return {
        "inputs": list(program.inputs),
        "populations": sorted(populations, key=lambda p: order[str(p["node"])]),
        "edges": [edge_facts(m) for m in found],
        "graded": graded,
    }


def edge_facts(found: FanOut) -> dict[str, Any]:
    """One edge with both of its maps, flat."""
    flat = {"fan_out": found.structural.ravel().tolist(), "fan_out_nz": found.nonzero.ravel().tolist()}
    return {"source": found.edge.source, "target": found.edge.target, **flat}


def fetch_runtime(out: Path) -> None:
    """Put the two files of onnxruntime-web into `out`, by npm, unless they are there.

    Raises:
        TargetUnavailable: npm is missing, found nothing within two minutes, or another package.
    """
    if all((out / name).exists() for name in FILES.values()):
        return
    npm = shutil.which("npm")
    if npm is None:
        raise unavailable("npm is not installed.")
    with tempfile.TemporaryDirectory() as folder:
        words = [npm, "pack", f"{RUNTIME}@{VERSION}", "--pack-destination", folder, "--prefer-offline"]
        try:
            done = subprocess.run(
                words,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise unavailable("npm got nothing within two minutes.") from None
        packages = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(packages) != 1:
            raise unavailable(f"npm failed: {done.stderr.strip().splitlines()[-1:] or 'no message'}.")
        unpack(packages[0], out)


def unpack(package: Path, out: Path) -> None:
    """Check the package against its digest and take the two files out of it."""
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if digest != SHA512:
        raise unavailable(f"The package has another SHA-512 than {RUNTIME} {VERSION}.")
    with tarfile.open(package) as archive:
        for member, name in FILES.items():
            content = archive.extractfile(member)
            if content is None:
                raise unavailable(f"The package lacks {member}.")
            write_atomic(out / name, content.read())


def unavailable(reason: str) -> TargetUnavailable:
    """That the runtime cannot be had."""
    return TargetUnavailable(
        f"{RUNTIME} {VERSION} could not be fetched.", reason, "Install npm and let it reach its registry."
    )


def train(epochs: int) -> Bundle:
    """A small RSC-II network on scikit-learn's digits."""
    config = TrainConfig(encoder=EncoderConfig("rsc2", steps=8, sigma=0.35), epochs=epochs, threads=1)
    return pipeline.to_bundle(pipeline.train(config, "digits"), config, "digits")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", nargs="?", type=Path, help="bundle folder; without it one is trained")
    parser.add_argument("--epochs", type=int, default=10, help="of that training")
    parser.add_argument("--votes", type=int, default=15, help="K that the page starts with")
    parser.add_argument("--out", type=Path, default=HERE / "vendor")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    bundle = train(options.epochs) if options.bundle is None else Bundle.load(options.bundle)
    build(bundle, options.out, options.votes)
    print(f"{options.out}: serve it with  python -m http.server -d {HERE}")


if __name__ == "__main__":
    main()
