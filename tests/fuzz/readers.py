"""All readers of foreign bytes that are fuzzed."""

from fuzz import images, runs, sets, shards, texts, weights

MODULES = (images, shards, sets, weights, runs, texts)
READERS = {reader.name: reader for module in MODULES for reader in module.READERS}
