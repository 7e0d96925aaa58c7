"""How many inputs the property tests draw: the same few hundred in `make test`, new thousands in `make campaign`."""

import os
from pathlib import Path

from hypothesis import settings

# a program that a test starts finds the shared package where the tests find it
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "support")
# and what a machine has of Docker does not change a test
os.environ["PATH"] = f"{Path(__file__).parent}/programs:{os.environ['PATH']}"

settings.register_profile("test", max_examples=300, deadline=None, derandomize=True)
settings.register_profile("campaign", max_examples=5_000, deadline=None, print_blob=True)
settings.load_profile("test")
