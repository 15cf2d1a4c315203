"""Signed rate coding: spikes of the pixel's sign, for images in [-1, 1] (Mukhoty et al., ICLR 2025)."""

from __future__ import annotations

from rsc.coding.coin import Coin

SIGNED = Coin(signed=True)
