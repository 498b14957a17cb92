"""The store for labelled frames: flat arrays on the disk, mapped or in memory; see docs/store.md."""

from thalweg.structures.store.batches import AtomBatches
from thalweg.structures.store.convert import Conversion, convert
from thalweg.structures.store.reading import Store, open_store
from thalweg.structures.store.schema import StoreIndex
from thalweg.structures.store.subsets import Partition, partition

__all__ = ["AtomBatches", "Conversion", "Partition", "Store", "StoreIndex", "convert", "open_store", "partition"]
