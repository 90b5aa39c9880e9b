"""A row that cannot be used."""


class BrokenRow(Exception):
    """A row that cannot be used.

    reason: one word, the same for all rows with that fault
    detail: what a person needs to mend it, "" where the reason says it all
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail
