"""Decisions and the sentences that explain them."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from autoseg.document import Part

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Decision(Generic[Value]):
    """The value that a rule chose, and one sentence with the numbers that led to it."""

    value: Value
    because: str


class Reason(Part):
    """A decision as it is stored and printed.

    Attributes:
        subject: The thing that was decided, for example "3d_fullres: patch size".
        value: The decision in words or numbers.
        because: One sentence with the numbers in it.
    """

    subject: str
    value: str
    because: str
