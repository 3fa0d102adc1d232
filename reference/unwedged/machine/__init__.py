"""The layer that knows Matrix: what a device needs so that it can read and write encrypted messages."""
