"""Neural-network weights as data.

The public names are loaded from their modules when they are first used, so that `import wscore` costs nothing:

    from wscore import Zoo
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wscore.errors import WscoreError as WscoreError
    from wscore.forecasting.accelerate import accelerate as accelerate
    from wscore.forecasting.recorder import record as record
    from wscore.models.sparse import SparseAutoencoder as SparseAutoencoder
    from wscore.models.sparse import TiedWeightSparseAutoencoder as TiedWeightSparseAutoencoder
    from wscore.publish.load import PublishedDecoder as PublishedDecoder
    from wscore.publish.load import PublishedDictionary as PublishedDictionary
    from wscore.publish.load import PublishedEncoder as PublishedEncoder
    from wscore.publish.load import PublishedHead as PublishedHead
    from wscore.publish.load import PublishedPredictor as PublishedPredictor
    from wscore.publish.load import WeightAutoencoder as WeightAutoencoder
    from wscore.zoo.architectures import Architecture as Architecture
    from wscore.zoo.architectures import build as build
    from wscore.zoo.layout import Layout as Layout
    from wscore.zoo.layout import layout_of as layout_of
    from wscore.zoo.store import Zoo as Zoo

#: Module of each public name. A name that is added here is also imported above, for type checkers.
HOMES = {
    "Architecture": "wscore.zoo.architectures",
    "Layout": "wscore.zoo.layout",
    "PublishedDecoder": "wscore.publish.load",
    "PublishedDictionary": "wscore.publish.load",
    "PublishedEncoder": "wscore.publish.load",
    "PublishedHead": "wscore.publish.load",
    "PublishedPredictor": "wscore.publish.load",
    "SparseAutoencoder": "wscore.models.sparse",
    "TiedWeightSparseAutoencoder": "wscore.models.sparse",
    "WeightAutoencoder": "wscore.publish.load",
    "WscoreError": "wscore.errors",
    "Zoo": "wscore.zoo.store",
    "accelerate": "wscore.forecasting.accelerate",
    "build": "wscore.zoo.architectures",
    "layout_of": "wscore.zoo.layout",
    "record": "wscore.forecasting.recorder",
}


def __getattr__(name: str) -> Any:
    """Return a public name from its module."""
    if name not in HOMES:
        raise AttributeError(f"module 'wscore' has no attribute {name!r}; it has {', '.join(HOMES)}")
    value = globals()[name] = getattr(import_module(HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
