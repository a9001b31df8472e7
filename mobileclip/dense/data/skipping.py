"""What a data set leaves out, counted by reason, with the first file of each."""


class Skipped(dict[str, int]):
    """Reason -> how often."""

    def __init__(self) -> None:
        super().__init__()
        self.first: dict[str, str] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count one, or `count`, of which `name` is the first."""
        self[reason] = self.get(reason, 0) + count
        self.first.setdefault(reason, name)

    def sentence(self) -> str:
        """`3 images without a mask (first 'a.jpg'), 1 …`; empty when nothing was left out."""
        return ", ".join(f"{count:,} x {reason} (first '{self.first[reason]}')" for reason, count in self.items())
