"""Google Cloud Storage on 127.0.0.1 for tests: gcp-storage-emulator, a thread a request.

    python tests/bucket_server.py PORT

An object store never shows half an object; the emulator stores what came of an upload
that was cut short by a kill. Such a request is refused here.
"""

import os
import sys
import threading
from http.server import ThreadingHTTPServer

from gcp_storage_emulator import server

BUCKET = "bucket"


def environment(port: int) -> dict[str, str]:
    """What leads TensorStore and gcsfs to the emulator."""
    address = f"http://127.0.0.1:{port}"
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        # gcsfs would ask Google of what kind the bucket is.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }


def whole(read):
    """Refuses a body that is shorter than its request said."""

    def read_whole(handler):
        data = read(handler)
        wanted = int(handler.headers.get("Content-Length") or 0)
        if len(data or b"") < wanted:
            raise ConnectionError("the client is gone")
        return data

    return read_whole


def start(port: int = 0) -> server.Server:
    """Starts an emulator with one bucket; `stop` ends it."""
    server._read_raw_data = whole(server._read_raw_data)
    server.server.HTTPServer = ThreadingHTTPServer
    ThreadingHTTPServer.daemon_threads = True
    emulator = server.create_server(
        "127.0.0.1", port, in_memory=True, default_bucket=BUCKET
    )
    emulator.start()
    return emulator


if __name__ == "__main__":
    start(int(sys.argv[1]))
    print("ready", flush=True)
    # Ends with the test that started it.
    parent = os.getppid()
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(0)
