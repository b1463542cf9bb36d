"""nfilter: from a noisy fine-tuning dataset to a better adapter, with a reason for every decision.

This module is the public API: the names in ``__init__.pyi``, each loaded when it is first used, so that `nfilter --help` waits
for neither numpy nor pydantic. Plugins may import them; everything else may change.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
