/* A client of a volume, and nbdkit's two hot callbacks, as CPython sees them.
 *
 * Idea.  The Python module mirror_core._client, in the shared object of the core:
 *   Client          a volume and a session, the base of what the plugin's `open` returns
 *   take_hot_calls  gives the plugin's module `pread` and `pwrite` that are C functions,
 *                   and a type that finds them without a Python string
 * So nbdkit calls the core with no Python in between: no frame, no conversion of
 * arguments twice, no search for the callback.  Together this was 1.1 of 7.2 us of CPU
 * that a 4 KiB write took (docs/benchmarks.md).  This and pin.c are the only C files
 * with Python.h; all else goes through cffi.
 *
 * Invariants.
 *   - The GIL is released while the core runs.
 *   - The buffer is used during the call and never kept; the volume outlives its
 *     clients (the Python object holds it).
 *   - A worker thread is pinned (pin.h) before its first request.
 *   - A handle that is no Client (the control export) gets the call as a method
 *     of its own, `pread` or `pwrite`; it answers 0 or -errno as the core does.
 *
 * The contract of the callbacks is nbdkit-python-plugin(3): None, or an exception
 * after `fail (errno)`, which sets the errno for the client and raises.
 */
#ifndef FM_CLIENT_H
#define FM_CLIENT_H

#include <Python.h>

PyMODINIT_FUNC PyInit__client (void);

#endif
