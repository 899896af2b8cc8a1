"""Makes the live index anew in a process of its own: `python -m clickloop.plugin.compaction`, settings on stdin."""

import logging
import sys

from ..retriever.errors import ClickLoopError
from .children import begin
from .loop import ClickLoop

log = logging.getLogger(__name__)


def main() -> int:
    loop = ClickLoop(begin())
    try:
        loop.compaction().run()
    except ClickLoopError as error:
        log.error("compaction: %s", error)
        return 1
    finally:
        loop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
