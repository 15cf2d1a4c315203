"""The values of a certification under the names that its code uses.

`Certified` is the `CertifyReport` that a report holds: one value, so that nothing is lost on the way to JSON
and back.
"""

from __future__ import annotations

from rsc.robustness.results import (
    CertifyReport as Certified,
)
from rsc.robustness.results import (
    Conversion,
    Soundness,
    Transfer,
    Voted,
)

__all__ = ["Certified", "Conversion", "Soundness", "Transfer", "Voted"]
