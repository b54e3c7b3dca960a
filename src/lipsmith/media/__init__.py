"""Files ⇄ frames and samples: the only place that knows PyAV."""
