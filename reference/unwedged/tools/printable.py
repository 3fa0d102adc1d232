"""Names and texts that anybody may have chosen, as they are shown in a terminal."""


def printable(text: str) -> str:
    """Return a text as it is, or so that it can do nothing to a terminal."""
    return text if text.isprintable() else repr(text)
