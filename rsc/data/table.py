"""The data sets: one line each, with where they come from and under which licence.

Licences are what the authors' pages say; none is known where none is stated, and that is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rsc.data.dataset import Dataset, Split
from rsc.data.digits import read_digits
from rsc.data.events import read_cifar10_dvs, read_dvs_gesture, read_n_mnist
from rsc.data.folders import read_imagenet, read_tiny_imagenet
from rsc.data.idx import read_mnist_like
from rsc.data.source import Place, Source
from rsc.data.verified import read_cifar, read_svhn
from rsc.errors import RscError

_DIGITS = tuple(str(k) for k in range(10))
_CLOTHES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A data set that can be loaded.

    Fields:
        read: (place, split, **options) -> the split.
        given: arguments of `read` that make it read this set.
        options: what a user may choose: 'size', 'steps'.
    """

    name: str
    source: Source
    read: Callable[..., Dataset]
    given: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: tuple[str, ...] = ()

    def __call__(self, split: Split, root: Path | None = None, **options: int) -> Dataset:
        """Load one split; `rsc.data.load` checks names and options first."""
        place = Place(self.name, self.source, Path("data") if root is None else Path(root))
        try:
            return self.read(place, split, **self.given, **options)
        except RscError:
            raise
        except OSError as error:  # a folder that may not be listed, a disk that fails
            raise place.unreadable(error.filename or place.root, error) from error


def _torchvision(cls: str, home: str, licence: str) -> Source:
    call = f"{cls}('{{root}}', download=True)"
    return Source(home, licence, f'python -c "from torchvision.datasets import {cls}; {call}"')


def _tonic(cls: str, home: str, licence: str, *calls: str) -> Source:
    todo = "; ".join(f"{cls}('{{root}}'{call})" for call in calls)
    return Source(
        home,
        licence,
        f"pip install 'rsc-snn[events]' && python -c \"from tonic.datasets import {cls}; {todo}\"",
    )


_UCI = Source(
    "https://archive.ics.uci.edu/dataset/80", "CC BY 4.0 (UCI repository)", "pip install scikit-learn"
)
_MNIST = _torchvision(
    "MNIST",
    "http://yann.lecun.com/exdb/mnist",
    "none on its page; Keras' documentation says CC BY-SA 3.0 by LeCun and Cortes",
)
_FASHION = _torchvision("FashionMNIST", "https://github.com/zalandoresearch/fashion-mnist", "MIT")
_KMNIST = _torchvision("KMNIST", "https://github.com/rois-codh/kmnist", "CC BY-SA 4.0")
_CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR_LICENCE = "none stated; its page asks to cite Krizhevsky 2009"
_SVHN = Source(
    "http://ufldl.stanford.edu/housenumbers",
    "none; its page says for non-commercial use only",
    'python -c "from torchvision.datasets import SVHN; '
    "[SVHN('{root}', s, download=True) for s in ('train', 'test')]\"",
)
_IMAGENET = Source(
    "https://image-net.org/download",
    "none; terms of access that ask for an account: non-commercial research and education",
    "register at image-net.org, put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
    "ILSVRC2012_devkit_t12.tar.gz into '{root}/imagenet', then python -c \"from torchvision.datasets import "
    "ImageNet; [ImageNet('{root}/imagenet', s) for s in ('train', 'val')]\"",
)
_TINY = Source(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    "none stated; its images are ImageNet's: non-commercial research and education",
    "curl -LO http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip -d '{root}'",
)
_N_MNIST = _tonic(
    "NMNIST",
    "https://www.garrickorchard.com/datasets/n-mnist",
    "CC BY-SA 4.0",
    ", train=True",
    ", train=False",
)
_CIFAR10_DVS = _tonic("CIFAR10DVS", "https://doi.org/10.6084/m9.figshare.4724671", "CC BY 4.0", "")
_GESTURE = _tonic(
    "DVSGesture",
    "https://research.ibm.com/interactive/dvsgesture",
    "CC BY 4.0",
    ", train=True",
    ", train=False",
)

_ENTRIES = (
    Entry("digits", _UCI, read_digits),
    Entry("mnist", _MNIST, read_mnist_like, {"folder": "MNIST", "labels": _DIGITS}),
    Entry("fashion-mnist", _FASHION, read_mnist_like, {"folder": "FashionMNIST", "labels": _CLOTHES}),
    Entry("kmnist", _KMNIST, read_mnist_like, {"folder": "KMNIST", "labels": _KANA}),
    Entry("cifar10", _torchvision("CIFAR10", _CIFAR_HOME, _CIFAR_LICENCE), read_cifar, {"cls": "CIFAR10"}),
    Entry("cifar100", _torchvision("CIFAR100", _CIFAR_HOME, _CIFAR_LICENCE), read_cifar, {"cls": "CIFAR100"}),
    Entry("svhn", _SVHN, read_svhn),
    Entry("tiny-imagenet", _TINY, read_tiny_imagenet, options=("size",)),
    Entry("imagenet", _IMAGENET, read_imagenet, options=("size",)),
    Entry("n-mnist", _N_MNIST, read_n_mnist, options=("steps", "size")),
    Entry("cifar10-dvs", _CIFAR10_DVS, read_cifar10_dvs, options=("steps", "size")),
    Entry("dvs-gesture", _GESTURE, read_dvs_gesture, options=("steps", "size")),
)

DATASETS: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
