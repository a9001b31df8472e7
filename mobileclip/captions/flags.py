"""What can be wrong with a caption, as bits of the column `flags` of side-cars; names are written beside them."""

from enum import IntFlag


class Flag(IntFlag):
    """One bit a rule; a bit keeps its meaning for ever."""

    EMPTY = 1 << 0
    """Nothing is left after cleaning."""
    CUT = 1 << 1
    """Longer than what is read; the rest was dropped."""
    ENTITY = 1 << 2
    """HTML entities were resolved or tags removed."""
    MOJIBAKE = 1 << 3
    """Broken encoding was mended."""
    CONTROL = 1 << 4
    """Control or invisible characters were removed."""
    URL = 1 << 5
    """An address or a mail address was removed."""
    BOILERPLATE = 1 << 6
    """A shop's, an agency's or a site's phrase was removed or found."""
    FILE_NAME = 1 << 7
    """It is a file's or a camera's name."""
    DATE = 1 << 8
    """It is nothing but dates, numbers or codes."""
    LANGUAGE = 1 << 9
    """Not in the languages that are wanted."""
    REPEATED = 1 << 10
    """Words or phrases are repeated."""
    REFUSAL = 1 << 11
    """A model's refusal."""
    LEAKAGE = 1 << 12
    """Words of a prompt or of a chat."""
    SHORT = 1 << 13
    """Fewer words or characters than wanted."""
    LONG = 1 << 14
    """More words or characters than wanted."""
    TOKENS = 1 << 15
    """More tokens than a text tower sees."""
    DUPLICATE = 1 << 16
    """Word for word another caption of the same image."""
    TRUNCATED = 1 << 17
    """A captioner was stopped at its limit before it ended the sentence."""
    INVENTED = 1 << 18
    """Too many words that none of its sources has."""
    BLOCKED = 1 << 19
    """Not to be used, by one of the rules above that is said to block."""
    HANDLE = 1 << 20
    """A handle was removed, or hash tags became words."""
    LEAD_IN = 1 << 21
    """Words such as "the image shows" before the description were removed or found."""


def names(flags: int) -> list[str]:
    """Names of the bits that are set, lower case."""
    return [str(flag.name).lower() for flag in Flag if flags & flag]
