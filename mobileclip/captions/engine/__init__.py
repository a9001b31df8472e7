"""Runs plans of caption work: on processes, on Ray, as a task of an array; whatever ends meanwhile."""

from typing import TYPE_CHECKING

from mobileclip.lazy import install

if TYPE_CHECKING:
    from mobileclip.captions.engine.runner import NotReady as NotReady
    from mobileclip.captions.engine.runner import Progress as Progress
    from mobileclip.captions.engine.runner import Summary as Summary
    from mobileclip.captions.engine.runner import run as run
    from mobileclip.captions.engine.status import status as status

install(__name__, dict.fromkeys(("NotReady", "Progress", "Summary", "run"), "runner") | {"status": "status"})
