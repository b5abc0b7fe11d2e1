"""A save in the background: commit, manifest, removal of the steps that it replaces."""

import logging
import os
import re
import threading
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from vit_jax.checkpoints.integrity import steps, write_manifest
from vit_jax.checkpoints.retention import Retention, remove
from vit_jax.storage.errors import StoreError

logger = logging.getLogger(__name__)


class Save(threading.Thread):
    """Writes a step in the background; the constructor has copied the arrays.

    Old steps go when the new one is committed and has its manifest, never before.

    Attributes:
        failure: the message of what fails later; empty if nothing does.

    Raises:
        Exception: Orbax cannot begin, for example since no folder can be made.
    """

    def __init__(
        self,
        folder: Path,
        state: Any,
        metadata: dict[str, Any],
        retention: Retention,
    ) -> None:
        super().__init__(daemon=True)
        self.folder, self.retention = folder, retention
        self.failure = ""
        context = ocp.Context()
        # Otherwise Orbax's threads wait 20 minutes for a folder that cannot be made.
        context.async_options.create_directories_asynchronously = False
        with context:
            self._response = ocp.save_checkpointables_async(
                folder,  # pyright: ignore[reportArgumentType]
                {"state": state},
                custom_metadata=metadata,
            )
        self.start()

    def run(self) -> None:
        try:
            self._response.result()
            if jax.process_index() == 0:
                write_manifest(self.folder)
                self._remove_old()
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self.failure = explain(error)

    def _remove_old(self) -> None:
        """Removes what is not kept; the next save does what a store refuses now."""
        directory = self.folder.parent
        try:
            kept = self.retention.kept(directory)
            remove(directory, set(steps(directory)) - kept.keys())
        except StoreError as error:
            logger.warning("old checkpoints are not removed yet: %s", error)


def explain(error: BaseException) -> str:
    """The first sentence of the error at the bottom of a chain.

    Orbax wraps what users need to know, such as shapes that differ, in other errors.
    """
    while below := error.__cause__ or error.__context__:
        error = below
    text = str(error).strip() or "no message"
    if code := re.search(r"os_error_code='(\d+)'", text):  # from TensorStore
        error = OSError(int(code[1]), os.strerror(int(code[1])))
    if isinstance(error, OSError) and error.strerror:
        name = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{name}"
    return f"{type(error).__name__}: {text.splitlines()[0].split('. ')[0]}"
