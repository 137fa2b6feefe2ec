"""Where the images of the experiment come from: five sources, one protocol.

Adding a source takes one file with a class that follows ``Source``, and one row in ``SOURCES``.

>>> from conjoin.experiments.digits.sources import open_source
>>> images = open_source("handwritten").load("train", 100, seed=1)
>>> len(images), images.images.shape
(100, torch.Size([100, 1, 32, 32]))
"""

from conjoin.experiments.digits.sources.download import fetch_mnist, fetch_svhn
from conjoin.experiments.digits.sources.embedded import HandwrittenDigits
from conjoin.experiments.digits.sources.folder import ImageFolder
from conjoin.experiments.digits.sources.mnist import Mnist
from conjoin.experiments.digits.sources.opening import SOURCES, SourceKind, open_source
from conjoin.experiments.digits.sources.rendered import RenderedStreetNumbers
from conjoin.experiments.digits.sources.source import SPLITS, Images, Progress, Source, Split
from conjoin.experiments.digits.sources.svhn import Svhn

__all__ = [
    "SOURCES",
    "SPLITS",
    "HandwrittenDigits",
    "ImageFolder",
    "Images",
    "Mnist",
    "Progress",
    "RenderedStreetNumbers",
    "Source",
    "SourceKind",
    "Split",
    "Svhn",
    "fetch_mnist",
    "fetch_svhn",
    "open_source",
]
