"""Archives that others made: unpacked only if the size of their content is sane."""

import contextlib
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

# Raise these two for archives that you trust. Weights and pictures hardly shrink; a
# bomb, which is made to fill memory or disk, shrinks to a thousandth.
MAX_RATIO = 200
MAX_SMALL_ARCHIVE = 256 << 20  # unpacked bytes below which no ratio is looked at

SHOWN = 200  # characters of the reason why an archive is damaged
# What `zipfile`, `tarfile` and the packings in them raise for a damaged archive.
DAMAGES = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, OSError, RuntimeError, ValueError, AttributeError, MemoryError),
    *(OverflowError, LookupError),
)


class ArchiveError(ValueError):
    """An archive that cannot be unpacked; the message names it and says why."""


@contextlib.contextmanager
def reading(name: str | os.PathLike) -> Iterator[None]:
    """Turns all that `zipfile` raises into an ArchiveError."""
    try:
        yield
    except ArchiveError:
        raise
    except DAMAGES as error:
        reason = " ".join(str(error).split())[:SHOWN] or type(error).__name__
        raise ArchiveError(f"{name} cannot be unpacked: {reason}") from error


def check_archive(archive: zipfile.ZipFile, name: str | os.PathLike) -> int:
    """Bytes that an archive unpacks to, of what its own table says.

    `zipfile` reads no more of a member than this table says.

    Raises:
        ArchiveError: they are so many for its size that it must be a bomb.
    """
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if archive.fp is not None:
        # Members may claim the same bytes.
        packed = min(packed, archive.fp.seek(0, os.SEEK_END))
    if unpacked > max(MAX_SMALL_ARCHIVE, MAX_RATIO * packed):
        raise ArchiveError(
            f"{name} unpacks from {packed / 2**20:.1f} MiB to {unpacked / 2**20:,.0f} "
            f"MiB, more than {MAX_RATIO} times its size, as no weights and pictures "
            "do; unpack it yourself if you trust it, or raise MAX_RATIO in "
            "vit_jax/storage/archives.py"
        )
    return unpacked
