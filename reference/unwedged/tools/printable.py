"""Names and texts from untrusted sources, made safe for a terminal."""


def printable(text: str) -> str:
    """Return a text as it is, or escaped if it could control a terminal."""
    return text if text.isprintable() else repr(text)
