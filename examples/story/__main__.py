"""Tell the story: ``python -m examples.story protocol no-fence kept-cache``, or some of them."""

import argparse
import asyncio

from examples.story.story import NAMES, main

parser = argparse.ArgumentParser(prog="python -m examples.story", description="Two processes share one Olm session.")
parser.add_argument("stories", nargs="*", metavar="STORY", help=f"any of {', '.join(NAMES)} (default: all)")
stories: list[str] = parser.parse_args().stories
if unknown := [name for name in stories if name not in NAMES]:
    parser.error(f"there is no story {unknown[0]!r}; there are {', '.join(NAMES)}")
asyncio.run(main(stories))
