"""Archives that others made: unpacked only if the size of their content is sane."""

import os
import zipfile

# Raise these two for archives that you trust. Weights and pictures hardly shrink; a
# bomb, which is made to fill memory or disk, shrinks to a thousandth.
MAX_RATIO = 200
MAX_SMALL_ARCHIVE = 256 << 20  # unpacked bytes below which no ratio is looked at


def check_archive(archive: zipfile.ZipFile, name: str | os.PathLike) -> int:
    """Bytes that an archive unpacks to, of what its own table says.

    `zipfile` reads no more of a member than this table says.

    Raises:
        ValueError: they are so many for its size that it must be a bomb.
    """
    members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if archive.fp is not None:
        # Members may claim the same bytes.
        packed = min(packed, archive.fp.seek(0, os.SEEK_END))
    if unpacked > max(MAX_SMALL_ARCHIVE, MAX_RATIO * packed):
        raise ValueError(
            f"{name} unpacks from {packed / 2**20:.1f} MiB to {unpacked / 2**20:,.0f} "
            f"MiB, more than {MAX_RATIO} times its size, as no weights and pictures "
            "do; unpack it yourself if you trust it, or raise MAX_RATIO in "
            "vit_jax/storage/archives.py"
        )
    return unpacked
