"""Name → card → verified files, and the adapter for published checkpoints."""
