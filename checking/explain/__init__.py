"""What happened to a store, found in the traces of its processes (``spec/trace.md``)."""
