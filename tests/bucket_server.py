"""Google Cloud Storage on 127.0.0.1 for tests: gcp-storage-emulator.

    python tests/bucket_server.py PORT

Two things are added, as the store has them: generations of objects, which TensorStore
and gcsfs ask for, and that an upload cut short by a kill leaves no object.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http import HTTPStatus

BUCKET = "bucket"
one_by_one = threading.Lock()  # between a condition and what it is for nothing comes
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
    """Refuses a body that is shorter than its header says."""

    def read_whole(handler):
        data = read(handler)
        wanted = int(handler.headers.get("Content-Length") or 0)
        if len(data or b"") < wanted:
            raise ConnectionError("the client is gone")
        return data

    return read_whole


def generation(request, storage) -> str:
    """The generation of the object that a request names; 0 where there is none."""
    from gcp_storage_emulator.exceptions import NotFound

    names = request.params | {key: value[0] for key, value in request.query.items()}
    if "multipart" in request.query.get("uploadType", ()):
        names["name"] = request.data["meta"]["name"]
    try:
        name = names.get("object_id") or names["name"]
        return storage.get_file_obj(names["bucket_name"], name)["generation"]
    except NotFound:
        return "0"


def conditional(answer, condition: str, refused: int):
    """Adds generations, which clients ask for and the emulator has not."""

    def answer_if(request, response, storage, *args, **kwargs):
        with one_by_one:
            now = generation(request, storage)
            wanted = request.query.get(condition, [None])[0]
            no = condition.endswith("NotMatch")
            if wanted is not None and (wanted == now) == no:
                response.status = refused
                return None
            if now != "0":
                response["x-goog-generation"] = now
            return answer(request, response, storage, *args, **kwargs)

    return answer_if


def start(port: int) -> None:
    """Starts an emulator with one bucket, in threads."""
    from gcp_storage_emulator import server
    from gcp_storage_emulator.handlers import objects

    server._read_raw_data = whole(server._read_raw_data)
    objects.download = conditional(
        objects.download, "ifGenerationNotMatch", HTTPStatus.NOT_MODIFIED
    )
    for name in ("_media_upload", "_multipart_upload"):
        answer, refused = getattr(objects, name), HTTPStatus.PRECONDITION_FAILED
        setattr(objects, name, conditional(answer, "ifGenerationMatch", refused))
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
