"""From ESConv to registered LLaMA-Factory data sets."""
