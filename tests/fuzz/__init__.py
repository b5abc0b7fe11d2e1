"""Readers of foreign bytes, given valid files that were changed where it matters."""

import sys
from pathlib import Path

# Writers of checkpoints that the tests beside have; `interop` is no package.
sys.path.append(str(Path(__file__).parent.parent / "interop"))
