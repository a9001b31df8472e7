"""One HTML page on caption work."""

from typing import TYPE_CHECKING

from mobileclip.lazy import install

if TYPE_CHECKING:
    from mobileclip.captions.report.page import report as report

install(__name__, {"report": "page"})
