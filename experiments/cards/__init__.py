"""Cards of the data sets and models, in the Hugging Face hub's format, for who publishes them."""
