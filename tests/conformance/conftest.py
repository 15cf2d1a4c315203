"""The modules beside the tests in this folder are imported by their bare names."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
