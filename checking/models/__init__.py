"""The models: what the manifest says that each of them must find, and checking them all."""
