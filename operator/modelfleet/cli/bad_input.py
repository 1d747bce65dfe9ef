"""How a command refuses what it was given."""


class BadInput(ValueError):
    """An option cannot be used; the text names it and says what to do, in one line."""

    def __init__(self, option: str, text: object) -> None:
        """Say what is wrong with an option."""
        super().__init__(f"{option}: {' '.join(str(text).split())}")
