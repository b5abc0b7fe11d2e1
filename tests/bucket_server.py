"""Google Cloud Storage on 127.0.0.1 for tests: gcp-storage-emulator.

    python tests/bucket_server.py PORT

An object store never shows half an object; the emulator stores what came of an upload
that was cut short by a kill. Such a request is refused here.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

BUCKET = "bucket"
# gcsfs would ask Google of what kind the bucket is; it reads this when it is imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")


def environment(port: int) -> dict[str, str]:
    """What leads TensorStore and gcsfs to the emulator."""
    address = f"http://127.0.0.1:{port}"
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
    }


@contextlib.contextmanager
def running(port: int = 0) -> Iterator[dict[str, str]]:
    """A server in a process of its own; gives the environment of its clients."""
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    command = [sys.executable, __file__, str(port)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            yield environment(port)
        finally:
            process.kill()


def whole(read):
    """Refuses a body that is shorter than its request said."""

    def read_whole(handler):
        data = read(handler)
        wanted = int(handler.headers.get("Content-Length") or 0)
        if len(data or b"") < wanted:
            raise ConnectionError("the client is gone")
        return data

    return read_whole


def start(port: int) -> None:
    """Starts an emulator with one bucket, in threads."""
    from gcp_storage_emulator import server

    server._read_raw_data = whole(server._read_raw_data)
    emulator = server.create_server(
        "127.0.0.1", port, in_memory=True, default_bucket=BUCKET
    )
    emulator.start()


if __name__ == "__main__":
    start(int(sys.argv[1]))
    print("ready", flush=True)
    # Ends with the test that started it.
    parent = os.getppid()
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(0)
