"""Every error that bigearth_tf raises on purpose.

    BigEarthError                    root; the command line turns it into exit code 1
    |-- ArchiveError (ValueError)    a folder or file is not what the published archives hold
    |   |-- ArchiveNotFoundError (FileNotFoundError)   no archive, split list or metadata where one was expected
    |   |-- MissingBandError (FileNotFoundError)       a patch folder lacks a band file
    |   |-- GeoTiffError             a band file is truncated or of another kind
    |   |-- LabelError               a label is outside the nomenclature
    |   `-- PairError                the S1 and S2 patch do not show the same place
    |-- RecordsError (ValueError)    shards, manifest or schema are damaged or foreign
    |-- ContractError (ValueError)   two DataContracts meet and differ; names both sides
    |-- UnknownNameError (ValueError)  a model, band, class or option that does not exist; lists the nearest
    |-- ConfigError (ValueError)     a value that cannot be
    |-- DownloadError (OSError)      a published file could not be fetched whole and unchanged
    |-- DivergedError (FloatingPointError)   the loss became NaN or infinite; names the batch
    |-- RunStoppedError (InterruptedError)   a signal stopped a training, which can go on from its checkpoint
    |-- BundleError (ValueError)     a bundle failed its self-check, is damaged, or is of another program
    |-- RetrievalError (ValueError)  embeddings or an index are damaged, foreign, or of another model
    |-- AccuracyError (ValueError)   a smaller model answers worse than was allowed
    |-- RequestError (ValueError)    a prediction request that breaks a rule          HTTP 400, INVALID_ARGUMENT
    |   |-- NotServedError (LookupError)   no such model, version or signature       HTTP 404, NOT_FOUND
    |   |-- TooLargeError            more bytes or patches than the server takes     HTTP 413, RESOURCE_EXHAUSTED
    |   `-- UnauthorizedError (PermissionError)   token missing or wrong             HTTP 401, UNAUTHENTICATED
    |-- OverloadedError (RuntimeError)   the queue is full; try again later          HTTP 503, UNAVAILABLE
    |-- DeadlineError (TimeoutError)     no answer within the time that was given    HTTP 504, DEADLINE_EXCEEDED
    |-- ServerError (RuntimeError)       the server failed at a request              HTTP 500, INTERNAL
    |-- ServerUnreachableError (ConnectionError)   nobody answers at that address
    |-- OutputError (OSError)        the output cannot be written: full disk, read-only folder
    `-- OutputExistsError (FileExistsError)  would overwrite; needs overwrite=True / --overwrite

A message says the rule, what was received, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 45  # names that a message lists: every class fits, not every patch
_COMPARED = 20_000  # names that are compared with a wrong one: more would take longer than a user waits


class BigEarthError(Exception):
    """Root of all errors raised on purpose by this package."""


class ArchiveError(BigEarthError, ValueError):
    """A folder or file is not what the published archives hold."""


class ArchiveNotFoundError(ArchiveError, FileNotFoundError):
    """No archive, split list or metadata file where one was expected."""


class MissingBandError(ArchiveError, FileNotFoundError):
    """A patch folder lacks a band file."""


class GeoTiffError(ArchiveError):
    """A band file is truncated, or not a GeoTIFF of the expected kind."""


class LabelError(ArchiveError):
    """A label is outside the nomenclature."""


class PairError(ArchiveError):
    """The Sentinel-1 and Sentinel-2 patch do not show the same place."""


class RecordsError(BigEarthError, ValueError):
    """Shards, manifest or schema are damaged, incomplete or foreign."""


class ContractError(BigEarthError, ValueError):
    """Two data contracts meet and differ."""


class UnknownNameError(BigEarthError, ValueError):
    """A name that does not exist; the message lists the nearest that do."""

    def __init__(self, kind: str, name: object, known: Iterable[object], *, listed: int = _LISTED):
        self.kind, self.name = kind, name
        known = [str(k) for k in known]
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5) if len(known) <= _COMPARED else []
        more = f", and {len(known) - listed:,} more" if len(known) > listed else ""
        some = f"known: {', '.join(known[:listed])}{more}" if known else "there are none"
        hint = f"did you mean {' or '.join(near)}?" if near else some
        super().__init__(f"unknown {kind} {str(name)!r}; {hint}")

    def __reduce__(self):  # so that it crosses a process boundary with its message
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigError(BigEarthError, ValueError):
    """A value that cannot be."""


class DownloadError(BigEarthError, OSError):
    """A published file could not be fetched whole and unchanged."""


class DivergedError(BigEarthError, FloatingPointError):
    """The loss of a training became NaN or infinite."""


class RunStoppedError(BigEarthError, InterruptedError):
    """A signal stopped a training; it can go on from its checkpoint.

    Attributes:
        signal: number of the signal.
    """

    def __init__(self, message: str, signal: int = 15):
        super().__init__(message)
        self.signal = signal


class BundleError(BigEarthError, ValueError):
    """A bundle failed its self-check, is damaged, or was written by another program."""


class RetrievalError(BigEarthError, ValueError):
    """Embeddings or a search index are damaged, foreign, or do not belong together."""


class AccuracyError(BigEarthError, ValueError):
    """A converted model answers worse than its original by more than was allowed."""


class RequestError(BigEarthError, ValueError):
    """A prediction request that breaks a rule: wrong shape, type, bytes or JSON."""


class NotServedError(RequestError, LookupError):
    """The server has no such model, version or signature."""


class TooLargeError(RequestError):
    """A request has more bytes or patches than the server takes."""


class UnauthorizedError(RequestError, PermissionError):
    """The token of a request is missing or wrong."""


class OverloadedError(BigEarthError, RuntimeError):
    """The server's queue is full; the same request may succeed later."""


class DeadlineError(BigEarthError, TimeoutError):
    """No answer came within the time that was given."""


class ServerError(BigEarthError, RuntimeError):
    """The server failed at a request that it should have answered."""


class ServerUnreachableError(BigEarthError, ConnectionError):
    """Nobody answers at the server's address."""


class OutputError(BigEarthError, OSError):
    """The output cannot be written: a full disk, a read-only folder."""


class OutputExistsError(BigEarthError, FileExistsError):
    """The output exists and overwriting was not asked for."""


def _rebuild(cls, args, state):
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error
