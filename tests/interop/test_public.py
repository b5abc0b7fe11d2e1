"""Downloads from a server of our own: whole, cut, damaged, absent, offline."""

import base64
import fcntl
import hashlib
import http.server
import json
import os
import re
import socket
import sys
import threading
from collections import Counter

import pytest

from vit_jax.interop import download as downloading
from vit_jax.interop import public
from vit_jax.interop.download import DownloadError, NotThere, download
from vit_jax.interop.files import FileError

CONTENT = bytes(range(256)) * 4000  # about a megabyte
SHA256 = hashlib.sha256(CONTENT).hexdigest()
MD5 = base64.b64encode(hashlib.md5(CONTENT).digest()).decode()


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; what is to go wrong is in the other attributes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files, self.headers = {}, {}
        self.redirects = {}  # path: (other path, headers of the redirect)
        self.failures = []  # status codes of the next answers
        self.cuts = []  # bytes after which the next answers break off
        self.requests = []  # (path, Range, Authorization)
        self.ranges = True


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, path = self.server, self.path.partition("?")[0]
        wanted = self.headers.get("Range")
        server.requests.append((path, wanted, self.headers.get("Authorization")))
        if server.failures:
            return self.send_error(server.failures.pop(0))
        if path in server.redirects:
            place, headers = server.redirects[path]
            self.send_response(302)
            for name, value in {"Location": place, **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if path not in server.files:
            return self.send_error(404)
        body = server.files[path]
        start = 0
        if wanted and server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}"
            )
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - start))
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        rest = body[start:]
        self.wfile.write(rest[: server.cuts.pop(0)] if server.cuts else rest)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """A cache of its own, no proxy, no waiting."""
    monkeypatch.setenv("VIT_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("no_proxy", "*")
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloading, "WAITS", (0.0, 0.0, 0.0))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def google(server, monkeypatch):
    monkeypatch.setattr(public, "STORAGE", server.url)
    server.headers = {"x-goog-hash": f"crc32c=AAAAAA==,md5={MD5}"}
    return server


@pytest.fixture
def hugging_face(server, monkeypatch):
    """A model `some/vit` whose weights lie elsewhere, as they do there."""
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    base = "/some/vit/resolve/main"
    server.files = {f"{base}/config.json": b"{}", "/elsewhere": CONTENT}
    etag = {"X-Linked-Etag": f'"{SHA256}"'}
    server.redirects = {f"{base}/model.safetensors": ("/elsewhere", etag)}
    return server


def offline_url() -> str:
    """An address where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


# --- One file ----------------------------------------------------------------------


def test_a_whole_file_once(server, tmp_path, capfd):
    server.files["/x.npz"] = CONTENT
    target = tmp_path / "deep" / "x.npz"
    download(f"{server.url}/x.npz", target, digest=SHA256[:8])
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["x.npz"]
    download(f"{server.url}/x.npz", target)
    assert len(server.requests) == 1
    assert capfd.readouterr() == ("", "")  # no progress where there is no terminal


def test_progress_on_a_terminal(server, tmp_path, capsys, monkeypatch):
    server.files["/x.npz"] = CONTENT
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download(f"{server.url}/x.npz", tmp_path / "x.npz")
    assert re.search(r"x\.npz: 100%.*0.98M/0.98M", capsys.readouterr().err)


def test_a_cut_connection_is_taken_up(google, tmp_path):
    google.files["/x.npz"] = CONTENT
    google.cuts = [300_000, 200_000]
    download(f"{google.url}/x.npz", tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == CONTENT
    ranges = [wanted for _, wanted, _ in google.requests]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_call_goes_on(google, tmp_path):
    google.files["/x.npz"] = CONTENT
    google.cuts = [300_000, 0, 0, 0, 0]
    with pytest.raises(DownloadError, match="ended after 300000 of 1024000 bytes"):
        download(f"{google.url}/x.npz", tmp_path / "x.npz")
    assert (tmp_path / "x.npz.part").stat().st_size == 300_000
    assert not (tmp_path / "x.npz").exists()
    google.cuts, google.requests = [], []
    download(f"{google.url}/x.npz", tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == CONTENT
    assert [wanted for _, wanted, _ in google.requests] == ["bytes=300000-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_what_cannot_be_resumed_or_checked_starts_again(server, tmp_path, ranges):
    """No ranges, or no checksum by which a patchwork would be found out."""
    server.files["/x.npz"] = CONTENT
    server.ranges = ranges
    (tmp_path / "x.npz.part").write_bytes(b"of another file")
    download(f"{server.url}/x.npz", tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_starts_again(google, tmp_path):
    google.files["/x.npz"] = CONTENT
    (tmp_path / "x.npz.part").write_bytes(CONTENT + b"more")
    download(f"{google.url}/x.npz", tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("digest", "headers", "message"),
    [
        ("abcd", {}, f"its SHA-256 is {SHA256}, wanted abcd"),
        ("", {"x-goog-hash": "md5=AAAA=="}, f"its MD5 is {MD5}, wanted AAAA=="),
    ],
)
def test_a_wrong_checksum(server, tmp_path, digest, headers, message):
    server.files["/x.npz"] = CONTENT
    server.headers = headers
    with pytest.raises(DownloadError) as caught:
        download(f"{server.url}/x.npz", tmp_path / "x.npz", digest=digest)
    assert message in str(caught.value) and "was thrown away" in str(caught.value)
    assert not (tmp_path / "x.npz").exists()
    assert not list(tmp_path.glob("x*"))


def test_a_busy_server_is_asked_again(server, tmp_path):
    server.files["/x.npz"] = CONTENT
    server.failures = [503, 429, 500]
    download(f"{server.url}/x.npz", tmp_path / "x.npz")
    assert (tmp_path / "x.npz").read_bytes() == CONTENT
    server.failures = [503] * 9
    with pytest.raises(DownloadError, match=r"\(HTTP 503 Service Unavailable\)"):
        download(f"{server.url}/y.npz", tmp_path / "y.npz")
    assert Counter(path for path, *_ in server.requests)["/y.npz"] == 4


def test_what_is_not_there_is_asked_for_once(server, tmp_path):
    for code in (404, 403):
        server.requests, server.failures = [], [code]
        with pytest.raises(NotThere, match=f"x.npz is not to be had: HTTP {code}"):
            download(f"{server.url}/x.npz", tmp_path / "x.npz")
        assert len(server.requests) == 1
    assert not list(tmp_path.glob("x*"))


def test_offline_tells_what_to_put_where(tmp_path):
    url = f"{offline_url()}/x.npz"
    with pytest.raises(DownloadError) as caught:
        download(url, tmp_path / "x.npz")
    assert "Connection refused" in str(caught.value)
    assert f"fetch it and put it at {tmp_path / 'x.npz'}" in str(caught.value)
    assert url in str(caught.value)


def test_a_full_disk(server, tmp_path, monkeypatch):
    server.files["/x.npz"] = CONTENT
    usage = downloading.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(downloading.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match=r"x.npz needs 1\.0 MiB more .* 0\.0 MiB"):
        download(f"{server.url}/x.npz", tmp_path / "x.npz")
    assert len(server.requests) == 1


def test_two_that_want_the_same_file(server, tmp_path):
    """The second waits for the first and finds the file."""
    server.files["/x.npz"] = CONTENT
    target, part = tmp_path / "x.npz", tmp_path / "x.npz.part"
    with part.open("ab") as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        second = threading.Thread(target=download, args=(f"{server.url}/x.npz", target))
        second.start()
        second.join(0.2)
        assert second.is_alive() and not server.requests
        first.write(b"from the first")
        first.flush()
        part.replace(target)
    second.join()
    assert target.read_bytes() == b"from the first" and not server.requests
    assert not part.exists()


# --- Names -------------------------------------------------------------------------


def test_existing_paths_are_returned_as_they_are(tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "two.npz").touch()
    for name in ("runs", tmp_path / "runs", "two.npz", "two.npz:img"):
        assert str(public.resolve(name)) == str(name)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (
            "augreg/B_16",
            "vit_models/augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-"
            "sd_0.0.npz",
        ),
        ("augreg/Ti_16-any-other", "vit_models/augreg/Ti_16-any-other.npz"),
        ("augreg/Ti_16-any-other.npz", "vit_models/augreg/Ti_16-any-other.npz"),
        (
            "imagenet21k+imagenet2012/ViT-B_16-224",
            "vit_models/imagenet21k+imagenet2012/ViT-B_16-224.npz",
        ),
        ("BiT-M-R50x1", "bit_models/BiT-M-R50x1.npz"),
        (
            "bit_models/vtab/BiT-M-R50x1-run0-dtd",
            "bit_models/vtab/BiT-M-R50x1-run0-dtd.npz",
        ),
        ("gs://big_vision/x/y.npz", "big_vision/x/y.npz"),
    ],
)
def test_google(google, tmp_path, name, path, caplog):
    google.files[f"/{path.replace('+', '%2B')}"] = CONTENT
    caplog.set_level("INFO", "vit_jax")
    file = public.resolve(name)
    assert file == tmp_path / "cache" / path and file.read_bytes() == CONTENT
    (message,) = caplog.messages
    assert message.startswith(f"downloading {google.url}/") and str(file) in message
    assert public.resolve(name) == file and len(google.requests) == 1
    assert len(caplog.messages) == 1


def test_part_of_a_file(google, tmp_path):
    name = "siglip/webli_en_b16_224_63724782"
    google.files[f"/big_vision/{name}.npz"] = CONTENT
    wanted = f"{tmp_path}/cache/big_vision/{name}.npz:img"
    assert str(public.resolve(f"big_vision/{name}")) == wanted
    assert str(public.resolve(f"gs://big_vision/{name}.npz:img")) == wanted


def test_an_address(server, tmp_path):
    server.files["/deep/x%20y.pth"] = CONTENT
    file = public.resolve(f"{server.url}/deep/x%20y.pth?download=true")
    host = server.url.removeprefix("http://")
    assert file == tmp_path / "cache" / host / "deep" / "x y.pth"
    with pytest.raises(FileNotFoundError, match="not the address of a file"):
        public.resolve(f"{server.url}/../../x.npz")
    with pytest.raises(NotThere, match="HTTP 404"):
        public.resolve(f"{server.url}/other.npz")


def test_the_digest_of_the_table_is_checked(server, monkeypatch):
    row = public.public()["torchvision/vit_b_16"]
    assert row.digest == "c867db91" and row.digest in row.address
    row = row._replace(address=f"{server.url}/x.pth")
    monkeypatch.setattr(public, "public", lambda: {row.name: row})
    server.files["/x.pth"] = CONTENT
    with pytest.raises(DownloadError, match=f"SHA-256 is {SHA256}, wanted c867db91"):
        public.resolve("torchvision/vit_b_16")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BiT-M-R50x4", "BiT-M-R50x4 is neither a file or .* did you mean BiT-M-R50x3"),
        ("vit_s16_i1k", "did you mean big_vision/vit_s16_i1k"),
        ("photo.npz", "photo.npz is neither a file or folder here nor a public"),
        ("runs/photo.npz", "runs/photo.npz is neither a file or folder here"),
        ("/runs/photo", "/runs/photo is neither a file or folder here"),
        ("./photo", "neither a file or folder here"),
    ],
)
def test_no_such_name(name, message):
    with pytest.raises(FileNotFoundError, match=message):
        public.resolve(name)


@pytest.mark.usefixtures("google")
def test_a_misspelt_file_of_a_known_folder():
    with pytest.raises(NotThere) as caught:
        public.resolve("imagenet21k/ViT-B_61")
    assert "imagenet21k/ViT-B_61 is no path here; http" in str(caught.value)
    assert "ViT-B_61.npz is not to be had: HTTP 404" in str(caught.value)
    assert "did you mean imagenet21k/ViT-B_16 or" in str(caught.value)


def test_offline_with_a_name(monkeypatch, tmp_path):
    monkeypatch.setattr(public, "STORAGE", offline_url())
    with pytest.raises(DownloadError) as caught:
        public.resolve("BiT-M-R50x1")
    target = tmp_path / "cache" / "bit_models" / "BiT-M-R50x1.npz"
    assert "/bit_models/BiT-M-R50x1.npz cannot be downloaded" in str(caught.value)
    assert str(caught.value).endswith(f"put it at {target}")
    target.write_bytes(b"put there")
    assert public.resolve("BiT-M-R50x1") == target


# --- Hugging Face ------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["some/vit", "hf:some/vit", "https://huggingface.co/some/vit"]
)
def test_a_model_of_hugging_face(hugging_face, tmp_path, name, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    folder = public.resolve(name)
    assert folder == tmp_path / "cache" / "huggingface.co" / "some" / "vit"
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    sent = {path: token for path, _, token in hugging_face.requests}
    assert sent["/some/vit/resolve/main/config.json"] == "Bearer secret"
    assert sent["/elsewhere"] is None  # the token stays where it belongs
    before = len(hugging_face.requests)
    assert public.resolve(name) == folder and len(hugging_face.requests) == before


def test_a_revision(hugging_face):
    base = "/some/vit/resolve/v2"
    hugging_face.files |= {f"{base}/config.json": b"{}"}
    hugging_face.files |= {f"{base}/model.safetensors": b"2"}
    folder = public.resolve("hf:some/vit@v2")
    assert (folder / "model.safetensors").read_bytes() == b"2"
    assert (public.resolve("some/vit") / "model.safetensors").read_bytes() == CONTENT


def test_the_checksum_of_hugging_face(hugging_face):
    hugging_face.files["/elsewhere"] = CONTENT[::-1]
    with pytest.raises(DownloadError, match=f"wanted {SHA256}; it was thrown away"):
        public.resolve("some/vit")


def test_sharded_weights(hugging_face):
    base = "/some/vit/resolve/main"
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    index = json.dumps({"weight_map": names}).encode()
    hugging_face.redirects = {}
    hugging_face.files |= {
        f"{base}/model.safetensors.index.json": index,
        f"{base}/model-1.safetensors": b"1",
    }
    with pytest.raises(NotThere, match="lacks model-2.safetensors"):
        public.resolve("some/vit")
    hugging_face.files[f"{base}/model-2.safetensors"] = b"2"
    folder = public.resolve("some/vit")
    assert (folder / "model-2.safetensors").read_bytes() == b"2"
    for name in ("../x.safetensors", "..", ""):
        (folder / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"a": name}})
        )
        with pytest.raises(FileError, match=f"names '{name}', which is not a plain f"):
            public.resolve("some/vit")


def test_pickles_are_fetched_where_there_is_nothing_else(hugging_face):
    hugging_face.redirects = {}
    hugging_face.files["/some/vit/resolve/main/pytorch_model.bin"] = CONTENT
    assert (public.resolve("some/vit") / "pytorch_model.bin").exists()


@pytest.mark.parametrize("name", ["x.npz", "last.ckpt", "model_best.pth.tar"])
def test_a_part_behind_a_file(name, tmp_path):
    (tmp_path / name).touch()
    assert public.resolve(f"{tmp_path / name}:net.ema") == tmp_path / f"{name}:net.ema"


def test_a_model_that_is_not_there_or_not_for_us(hugging_face):
    hugging_face.failures = [401]
    with pytest.raises(NotThere) as caught:
        public.resolve("gogle/vit-base-patch16-224")
    message = str(caught.value)
    assert "HTTP 401 Unauthorized: Hugging Face has no such model" in message
    assert "did you mean google/vit-base-patch16-224 or" in message


def test_offline_with_a_model(monkeypatch, tmp_path):
    endpoint = offline_url()
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    with pytest.raises(DownloadError) as caught:
        public.resolve("some/vit")
    folder = tmp_path / "cache" / "huggingface.co" / "some" / "vit"
    assert (
        "without a network, put config.json, preprocessor_config.json and "
        f"model.safetensors of {endpoint}/some/vit/resolve/main/ into {folder}"
    ) in str(caught.value)
    # A folder of runs that is misspelt, for example.
    assert str(caught.value).startswith("some/vit is no path here; http")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    assert public.resolve("some/vit") == folder


def test_the_cache_of_hugging_faces_library(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", offline_url())
    model = tmp_path / "hf" / "hub" / "models--some--vit"
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc\n")
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(DownloadError):
        public.resolve("some/vit")  # the config alone is not a model
    (snapshot / "model.safetensors").touch()
    assert public.resolve("some/vit") == snapshot
    assert public.resolve("hf:some/vit@abc") == snapshot


# --- The table ---------------------------------------------------------------------


def test_the_table_is_in_order():
    rows = public.public()
    assert len(rows) > 200
    layouts = {"google", "big_vision", "timm", "huggingface", "torchvision", "vit5"}
    for name, row in rows.items():
        assert row.layout in layouts and int(row.classes) in (0, 1000, 21843)
        assert not row.image_size or 160 <= int(row.image_size) <= 518
        assert not row.size or re.fullmatch(r"[\d.]+ ([KMG]iB|[MG]B)", row.size)
        assert re.match(r"(gs://\w+/|https://|hf:[\w.-]+/)", row.address), name
        # A name that is a path means the file at that path.
        if row.address.startswith("hf:"):
            assert name == row.address.removeprefix("hf:") or name.startswith("timm/")
    assert len({row.address for row in rows.values()}) == len(rows)
    line = "augreg/R50_L_32 +R50\\+ViT-L/32 +21843 +224 +google +1337 MiB\n"
    assert re.search(line, public.table())
