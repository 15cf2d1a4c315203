"""RSC-II: a fresh Gaussian draw at every step (Wu et al., arXiv 2407.20099)."""

from __future__ import annotations

from rsc.coding.gaussian import Gaussian

RSC2 = Gaussian(fresh=True)
