"""Poisson or rate coding: every pixel is a coin (Mukhoty et al., ICLR 2024, and before)."""

from __future__ import annotations

from rsc.coding.coin import Coin

BERNOULLI = Coin(signed=False)
