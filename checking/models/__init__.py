"""Check the models against the manifest, which says what TLC must find in each of them."""
