"""Training spiking networks (and their ANN twins) with an encoder in the loop."""

from rsc.training.config import EncoderConfig, TrainConfig, read_config
from rsc.training.fit import EpochStats, Trained, fit

__all__ = ["EncoderConfig", "EpochStats", "TrainConfig", "Trained", "fit", "read_config"]
