"""Neural-network weights as data.

The public names are loaded from their modules when they are first used, so that `import wscore` costs nothing:

    from wscore import Zoo
"""

import os
import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Threads of OpenMP that wait for work sleep instead of spinning: beside other processes spinning costs ten times the
# time (`python -m benchmarks.busy_machine`). It counts only if it stands here before torch or scikit-learn is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

if TYPE_CHECKING:
    from wscore.autoencoder.coding.codec import WeightCodec as WeightCodec
    from wscore.encoder.weight_encoder import WeightEncoder as WeightEncoder
    from wscore.errors import WscoreError as WscoreError
    from wscore.forecasting.nowcast import nowcast as nowcast
    from wscore.forecasting.trajectories.recorder import record as record
    from wscore.networks.architectures import Architecture as Architecture
    from wscore.networks.architectures import build as build
    from wscore.networks.layout import Layout as Layout
    from wscore.networks.layout import layout_of as layout_of
    from wscore.publish.pretrained import PublishedDecoder as PublishedDecoder
    from wscore.publish.pretrained import PublishedDictionary as PublishedDictionary
    from wscore.publish.pretrained import PublishedEncoder as PublishedEncoder
    from wscore.publish.pretrained import PublishedHead as PublishedHead
    from wscore.publish.pretrained import PublishedPredictor as PublishedPredictor
    from wscore.publish.weight_autoencoder import WeightAutoencoder as WeightAutoencoder
    from wscore.sae.model import SparseAutoencoder as SparseAutoencoder
    from wscore.sae.model import TiedWeightSparseAutoencoder as TiedWeightSparseAutoencoder
    from wscore.survey.lineage import lineage as lineage
    from wscore.zoo.store import Zoo as Zoo

#: Module of each public name. A name that is added here is also imported above, for type checkers.
HOMES = {
    "Architecture": "wscore.networks.architectures",
    "Layout": "wscore.networks.layout",
    "PublishedDecoder": "wscore.publish.pretrained",
    "PublishedDictionary": "wscore.publish.pretrained",
    "PublishedEncoder": "wscore.publish.pretrained",
    "PublishedHead": "wscore.publish.pretrained",
    "PublishedPredictor": "wscore.publish.pretrained",
    "SparseAutoencoder": "wscore.sae.model",
    "TiedWeightSparseAutoencoder": "wscore.sae.model",
    "WeightAutoencoder": "wscore.publish.weight_autoencoder",
    "WeightCodec": "wscore.autoencoder.coding.codec",
    "WeightEncoder": "wscore.encoder.weight_encoder",
    "WscoreError": "wscore.errors",
    "Zoo": "wscore.zoo.store",
    "nowcast": "wscore.forecasting.nowcast",
    "build": "wscore.networks.architectures",
    "layout_of": "wscore.networks.layout",
    "lineage": "wscore.survey.lineage",
    "record": "wscore.forecasting.trajectories.recorder",
}


#: Former public names.
RENAMED = {"accelerate": "nowcast"}


def __getattr__(name: str) -> Any:
    """Return a public name from its module; a former name gives the present one with a warning."""
    if name in RENAMED:
        warnings.warn(f"wscore.{name} is called wscore.{RENAMED[name]} now", DeprecationWarning, stacklevel=2)
        return __getattr__(RENAMED[name])
    if name not in HOMES:
        raise AttributeError(f"module 'wscore' has no attribute {name!r}; it has {', '.join(HOMES)}")
    value = globals()[name] = getattr(import_module(HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
