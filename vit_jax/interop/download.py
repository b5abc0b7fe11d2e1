"""Downloads of one file: resumed after a cut, checked, and never half in place.

Files of Google that were uploaded in parts have no MD5: they are checked by size, and
an .npz by the checksums inside it when it is read.
"""

import base64
import contextlib
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

TIMEOUT = 30.0  # seconds without a byte
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each new try
TRANSIENT = (408, 429, 500, 502, 503, 504)
CHUNK = 1 << 20


class DownloadError(OSError):
    """A file that could not be downloaded; the message says why and what to do."""


class NotThere(DownloadError):
    """The server answered that there is no such file, or that it is not for us."""


class FileFacts(NamedTuple):
    """Facts of a whole file by the server's headers, "" and 0 where they lack.

    Attributes:
        size: in bytes.
        md5: base64, from Google Cloud Storage; files that were uploaded in parts have
            none.
        sha256: hexadecimal, from Hugging Face.
    """

    size: int
    md5: str
    sha256: str


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; keeps the checksum that Hugging Face sends along with one."""

    etag = ""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        self.etag = headers.get("X-Linked-Etag", self.etag)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, target: Path, *, digest: str = "", token: str = "") -> None:
    """Downloads a file unless it is there.

    An unfinished download is kept in `<target>.part`, from which a later call goes on.
    The whole file is checked by the `digest`, and by the server's size and checksum,
    before it gets its name. Progress is shown on a terminal only. Processes that want
    the same file wait for the one that fetches it.

    Args:
        url: http or https.
        target: where the file goes; its folder is made.
        digest: SHA-256 in hexadecimal, or its beginning.
        token: sent as "Authorization: Bearer", but not along with redirects.

    Raises:
        NotThere: HTTP 401, 403, 404, 410 or the like.
        DownloadError: no connection, the checksum is wrong, or no space.
    """
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with locked(part) as file:
        if target.exists():  # another process was faster
            part.unlink()
            return
        try:
            facts = receive_with_retries(url, file, target, digest, token)
            file.flush()
            problem = difference(part, facts, digest)
            if problem:
                empty(file)
                raise DownloadError(
                    f"{url} did not arrive as it should be: {problem}; it was thrown "
                    "away, so run the command again"
                )
        except BaseException:
            if not file.seek(0, 2):
                part.unlink()
            raise
        part.replace(target)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """A file to append to, which no other process has at the same time."""
    while True:
        with path.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(file, path):  # and was not renamed or removed while we waited
                yield file
                return


def is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one that has this path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def receive_with_retries(
    url: str, file: BinaryIO, target: Path, digest: str, token: str
) -> FileFacts:
    """Appends the rest of a file; tries again after errors that may pass."""
    answered = False
    waits = iter(WAITS[:1])  # a machine without a network is not made to wait
    while True:
        size = file.seek(0, 2)
        try:
            return receive(url, file, target, digest, token)
        except urllib.error.HTTPError as error:
            error.close()
            reason = f"HTTP {error.code} {error.reason}"
            if error.code == 416:  # our part is not the beginning of that file
                empty(file)
            elif error.code not in TRANSIENT:
                raise NotThere(f"{url} is not to be had: {reason}") from error
            progress = not answered
        except DownloadError:
            raise
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            progress = file.seek(0, 2) > size
        if progress:
            answered, waits = True, iter(WAITS)
        wait = next(waits, None)
        if wait is None:
            raise DownloadError(
                f"{url} cannot be downloaded ({reason}); where there is a network, "
                f"fetch it and put it at {target}"
            )
        time.sleep(wait)


def receive(
    url: str, file: BinaryIO, target: Path, digest: str, token: str
) -> FileFacts:
    """Appends the rest of a file in one request; returns facts of the whole file."""
    start = file.seek(0, 2)
    redirects = Redirects()
    with open_url(url, redirects, start, token) as response:
        facts = file_facts(response, redirects.etag)
        resumed = response.status == 206
        if resumed and not (facts.md5 or facts.sha256 or digest):
            # The file may have changed, and no checksum would show it.
            empty(file)
            return receive(url, file, target, digest, token)
        if not resumed:
            empty(file)
            start = 0
        free = shutil.disk_usage(target.parent).free
        if facts.size - start > free:
            raise DownloadError(
                f"{target.name} needs {mebibytes(facts.size - start)} more and "
                f"{target.parent} has {mebibytes(free)} left; make room, or set "
                "VIT_JAX_CACHE to a folder elsewhere"
            )
        with tqdm(
            desc=target.name,
            total=facts.size or None,
            initial=start,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            disable=not sys.stderr.isatty(),
        ) as bar:
            while chunk := response.read(CHUNK):
                write(chunk, file, target)
                bar.update(len(chunk))
    # A cut connection looks like the end of the file.
    if file.tell() < facts.size:
        raise ConnectionError(
            f"the connection ended after {file.tell()} of {facts.size} bytes"
        )
    return facts


def open_url(
    url: str, redirects: Redirects, start: int, token: str
) -> http.client.HTTPResponse:
    """Asks for a file from byte `start` on."""
    request = urllib.request.Request(url, headers={"User-Agent": "vit_jax"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    return urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT)


def file_facts(response: http.client.HTTPResponse, etag: str) -> FileFacts:
    """Size and checksum of the whole file, from the headers of an answer."""
    headers = response.headers
    size = int(headers.get("Content-Length", 0))
    if response.status == 206:
        size = int(headers["Content-Range"].rpartition("/")[2])
    hashes = ",".join(headers.get_all("x-goog-hash", []))
    md5 = re.search(r"md5=([\w+/]+=*)", hashes)
    sha256 = re.search(r"^[0-9a-f]{64}$", etag.strip('"'))
    return FileFacts(size, md5[1] if md5 else "", sha256[0] if sha256 else "")


def write(chunk: bytes, file: BinaryIO, target: Path) -> None:
    """Writes a chunk; errors of the disk are not tried again, unlike the network's."""
    try:
        file.write(chunk)
    except OSError as error:
        raise DownloadError(
            f"{target} cannot be written: {error.strerror}; what was downloaded is kept"
        ) from error


def empty(file: BinaryIO) -> None:
    """Discards what was downloaded."""
    file.seek(0)
    file.truncate()


def difference(path: Path, facts: FileFacts, digest: str) -> str:
    """How a file differs from the expected one; empty if it does not."""
    size = path.stat().st_size
    if facts.size and size != facts.size:
        return f"it has {size} bytes, wanted {facts.size}"
    for sha256 in filter(None, (digest, facts.sha256)):
        actual = checksum(path, "sha256").hex()
        if not actual.startswith(sha256):
            return f"its SHA-256 is {actual}, wanted {sha256}"
    if facts.md5:
        actual = base64.b64encode(checksum(path, "md5")).decode()
        if actual != facts.md5:
            return f"its MD5 is {actual}, wanted {facts.md5}"
    return ""


def checksum(path: Path, name: str) -> bytes:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, name).digest()


def mebibytes(size: int) -> str:
    """A number of bytes as text."""
    return f"{size / 2**20:.1f} MiB"
