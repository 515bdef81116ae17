"""`autoseg select`: the best configuration or pair, and its postprocessing."""
