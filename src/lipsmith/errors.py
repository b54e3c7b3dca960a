"""Every error that Lipsmith raises on purpose, one class per thing that a caller can react to.

A message says what happened, where (file, frame, time) and what would work. The command line prints the message
alone and ends with the class's exit code; a library caller catches `LipsmithError` or the class that it can mend.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INPUT = 3
    OUTPUT = 4
    NO_FACE = 5
    WEIGHTS = 6
    RUNTIME = 7
    PROVENANCE = 8
    DATA = 9
    RECIPE = 10
    UNVERIFIED = 11  # of `inspect`, whose answer is given all the same
    INCOMPLETE = 12  # of `evaluate`: the table was given, but some files have no score
    INTERRUPTED = 130


class LipsmithError(Exception):
    """Base of all errors that are the user's to mend, with the exit code that the command line ends with."""

    exit_code: ExitCode = ExitCode.INTERNAL
    is_told_elsewhere: bool = False
    """Raised in every process of a training alike, and another one is to tell it."""


class UsageError(LipsmithError):
    """Options that do not go together, or a value out of its range."""

    exit_code = ExitCode.USAGE


class InputError(LipsmithError):
    """A media file that cannot be read: missing, empty, not media, truncated, without the stream that is needed."""

    exit_code = ExitCode.INPUT


class OutputError(LipsmithError):
    """An output that cannot be written: unwritable folder, a file that is the input, a full disk."""

    exit_code = ExitCode.OUTPUT


class NoFaceError(LipsmithError):
    """A video without any face to sync."""

    exit_code = ExitCode.NO_FACE


class WeightsError(LipsmithError):
    """Weights that are unknown, damaged, of another layout, or that would run code when read."""

    exit_code = ExitCode.WEIGHTS


class RuntimeUnavailableError(LipsmithError):
    """A runtime or a device that is not installed or not present on this machine."""

    exit_code = ExitCode.RUNTIME


class ProvenanceError(LipsmithError):
    """Content Credentials that could not be made or read."""

    exit_code = ExitCode.PROVENANCE


class DataError(LipsmithError):
    """Training data that cannot be used: no usable clip, a damaged index."""

    exit_code = ExitCode.DATA


class RecipeError(LipsmithError):
    """A training recipe with an unknown field or a value out of range."""

    exit_code = ExitCode.RECIPE
