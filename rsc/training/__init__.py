"""Training spiking networks (and their ANN twins) with an encoder in the loop."""

from rsc.training.config import EncoderConfig, TrainConfig, read_config
from rsc.training.fit import EpochStats, Trained, fit
from rsc.training.run_folder import RunFolder

__all__ = ["EncoderConfig", "EpochStats", "RunFolder", "TrainConfig", "Trained", "fit", "read_config"]
