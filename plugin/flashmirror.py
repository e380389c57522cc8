"""The nbdkit plugin: callbacks, each a delegation to mirror_core.exports or mirror_core.site.

Run by mirror_core.process as `nbdkit python flashmirror.py site=FILE.toml`; see
nbdkit-python-plugin(3).  Threads begin in after_fork and are joined in cleanup, which nbdkit
calls when no callback runs any more.

Every error reaches the client with its errno; those of the core are OSError, ours MirrorError.
"""

import contextlib
import errno
import os
import sys
import traceback

import nbdkit


def _die(text):
    """A refusal before anything is served: one line, and the process ends."""
    try:
        sys.stderr.write(f"flashmirror: {text}\n")
        sys.stderr.flush()
    finally:
        os._exit(1)


if sys.prefix == sys.base_prefix and os.environ.get("FLASHMIRROR_PREFIX"):
    _die(
        f"nbdkit's Python runs outside {os.environ['FLASHMIRROR_PREFIX']}: start the site "
        "with 'flashmirror start'"
    )
try:
    from mirror_core import config as configuration
    from mirror_core import connections, door, exports, lock, native, stderr, writeback
    from mirror_core.errors import MirrorError
    from mirror_core.site import Site
except ImportError as error:
    _die(f"{error}: start the site with 'flashmirror start', which finds its environment")

API_VERSION = 2

# nbdkit logs an exception of a callback as `traceback` has it.  What goes wrong outside of us, a
# stranger's every try among it, is one line; the way of an error through our code is for bugs.
_whole_story = traceback.format_exception
traceback.format_exception = lambda kind, error, trace: (
    [str(error)] if isinstance(error, (MirrorError, OSError)) else _whole_story(kind, error, trace)
)
_site = None
_ender = None
_door = None
_path = None


def thread_model():
    return nbdkit.THREAD_MODEL_PARALLEL


def config(key, value):
    global _path
    if key != "site":
        _die(f"{key}: no such parameter: only site=FILE.toml")
    _path = value


def config_complete():
    global _site
    if _path is None:
        _die("site=FILE.toml is missing")
    try:
        settings, held = configuration.load(_path), lock.handed()
        lock.refuse_other(held, settings)
        _site = Site(settings, held=held)
    except MirrorError as error:
        _die(str(error))


def after_fork():
    global _door, _ender
    try:
        stderr.never_wait()
        connections.hold_signals()
        connections.outlive_the_starter()
        connections.take_all_descriptors()
        if lack := writeback.prepare():
            _site.journal.say(lack)
        _site.start()
        _door = door.Door(_site.config, _site.journal, _session)
        log = stderr.Log(_site.journal.say)
        _ender = connections.Ender(_site.config, _site.ending, nbdkit.shutdown, log.reopen)
        _door.start()
        _ender.start()
    except Exception as error:
        _die(str(error) or type(error).__name__)  # a want of memory has no words of its own


def _session():
    """Of a target; a source has none here."""
    return getattr(_site.control, "session", 0)


def cleanup():
    with contextlib.ExitStack() as last_first:  # each is done whatever becomes of the others
        last_first.callback(_site.stop)
        last_first.callback(_site.config.socket.unlink, missing_ok=True)  # while the state is ours
        last_first.callback(_door.end)
        last_first.callback(_ender.end)


def preconnect(readonly):
    _door.knock()


def list_exports(readonly, is_tls):
    return exports.names(_site, _door.who())


def default_export(readonly, is_tls):
    return exports.default_export(_site) if _door.who().local else ""


def _export_name():
    """What the client asks for; some bytes are no text, and the name of nothing."""
    try:
        return nbdkit.export_name()
    except UnicodeDecodeError as error:
        return error.object.decode(errors="replace")


def open(readonly):
    with _errno:
        visitor = _door.visitor()
        try:
            export = exports.open_export(_site, _export_name(), visitor)
        except MirrorError as error:
            _door.refused(visitor, error)
            raise
        _door.entered(visitor, intermediate=_volume(export))
        return export


def close(h):
    h.close()
    _door.left(h.visitor, intermediate=_volume(h))


class _Errno:
    """Hands the errno of what goes wrong inside to nbdkit, and so to the client."""

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            _set_errno(error)


def _fail(code):
    nbdkit.set_error(code)
    raise OSError(code, os.strerror(code))


def _set_errno(error):
    nbdkit.set_error(getattr(error, "code", 0) or getattr(error, "errno", 0) or errno.EIO)


_errno = _Errno()


def _fua(flags):
    return native.FUA if flags & nbdkit.FLAG_FUA else 0


def _volume(h):
    return h.kind == "volume"


def get_size(h):
    return h.size


def block_size(h):
    return (h.minimum, h.preferred, 32 << 20) if _volume(h) else (1, 4096, 32 << 20)


def can_write(h):
    return True


def can_flush(h):
    return True


def can_fua(h):
    return nbdkit.FUA_NATIVE


def can_trim(h):
    return _volume(h)


def can_zero(h):
    return _volume(h)


def can_fast_zero(h):
    return _volume(h) and h.extents_known


def can_extents(h):
    return _volume(h) and h.extents_known


def can_multi_conn(h):
    return _volume(h)


def can_cache(h):
    return nbdkit.CACHE_EMULATE


def is_rotational(h):
    return False


# pread and pwrite: from nbdkit into the core with no Python in between (native/client.h).
native.take_hot_calls(sys.modules[__name__], _fail)


def flush(h, flags):
    with _errno:
        h.flush()


def trim(h, count, offset, flags):
    with _errno:
        h.zero(count, offset, native.PUNCH | _fua(flags))


def zero(h, count, offset, flags):
    punch = native.PUNCH if flags & nbdkit.FLAG_MAY_TRIM else 0
    fast = native.FAST if flags & nbdkit.FLAG_FAST_ZERO else 0
    with _errno:
        h.zero(count, offset, punch | fast | _fua(flags))


def extents(h, count, offset, flags):
    with _errno:
        return [
            (at, size, nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO if hole else 0)
            for at, size, hole in h.extents(count, offset, one=bool(flags & nbdkit.FLAG_REQ_ONE))
        ]
