"""How many inputs the property tests draw: the same few hundred in `make test`, new thousands in `make campaign`."""

from hypothesis import settings

settings.register_profile("test", max_examples=300, deadline=None, derandomize=True)
settings.register_profile("campaign", max_examples=5_000, deadline=None, print_blob=True)
settings.load_profile("test")
