"""Name → card → verified files, and the adapter for published checkpoints."""

from lipsmith.weights.card import WeightCard
from lipsmith.weights.store import list_weights, load_card, resolve, weights_folder

__all__ = ["WeightCard", "list_weights", "load_card", "resolve", "weights_folder"]
