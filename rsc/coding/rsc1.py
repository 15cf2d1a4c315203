"""RSC-I: one Gaussian draw per run, the same at every step (Wu et al., arXiv 2407.20099)."""

from __future__ import annotations

from rsc.coding.gaussian import Gaussian

RSC1 = Gaussian(fresh=False)
