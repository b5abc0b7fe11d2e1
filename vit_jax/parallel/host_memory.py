"""Memory of a process that computes on CPUs: what a step frees, the next one takes.

Each step asks for one block of hundreds of megabytes. The C library gives such blocks
back to the system when they are freed and gets them anew, page by page, each filled
with zeros: a fifth of the time of a step of ViT-Ti/16 (docs/performance.md).
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util

import jax

# Of glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """Keeps freed memory in the process; to be called before anything is computed.

    Steps then are taken by the thread that asks for them: it alone has a heap that may
    grow so far, the others hand large blocks back still. Where there are accelerators,
    and on systems without glibc, nothing happens.
    """
    if not only_cpus():
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None)
        if libc.gnu_get_libc_version and libc.mallopt(M_MMAP_MAX, 0):
            libc.mallopt(M_TRIM_THRESHOLD, -1)  # never
            jax.config.update("jax_cpu_enable_async_dispatch", False)


def only_cpus() -> bool:
    """Whether JAX will use CPUs, as far as can be told before it looks for devices."""
    platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if platforms:
        return platforms == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and not importlib.util.find_spec("libtpu")
