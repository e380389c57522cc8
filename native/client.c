/* See client.h. */
#include "client.h"
#include "news.h"
#include "pin.h"
#include "request.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

enum { NBDKIT_FLAG_FUA = 1 << 1 }; /* nbdkit-plugin(3): the only flag of pwrite */

struct client {
  PyObject_HEAD
  struct fm_volume *volume;
  uint64_t session;
  struct fm_news *news; /* NULL: it was closed */
};

static PyTypeObject *client_type;

/* ---- the hot callbacks; `fail` is what the plugin gave to take_hot_calls ---- */

static PyObject *
answer (PyObject *fail, int rc)
{
  if (rc == 0)
    Py_RETURN_NONE;
  return PyObject_CallFunction (fail, "i", -rc);
}

/* nbdkit makes EINVAL of an errno that NBD has no number for, such as those of a store's
 * connection that has ended: for a client they are EIO.  To the other site, which has a session, EPERM
 * says "not yet" (EAGAIN: store_nbd.c), so a store's own EPERM is EIO for it, too. */
static int
for_client (const struct client *c, int rc)
{
  switch (-rc) {
  case EAGAIN:
    return -EPERM;
  case EPERM:
  case EROFS:
    return c->session ? -EIO : rc;
  case ENOTCONN:
  case ETIMEDOUT:
  case ECONNREFUSED:
  case ECONNRESET:
  case EPIPE:
  case ENOENT:
  case EHOSTUNREACH:
  case ENETUNREACH:
  case EHOSTDOWN:
  case ENETDOWN:
  case ECONNABORTED:
  case EPROTO:
    return -EIO;
  default:
    return rc;
  }
}

/* To the handle's own method, in Python. */
static PyObject *
pass_on (PyObject *fail, const char *method, PyObject *const *args)
{
  PyObject *r = PyObject_CallMethod (args[0], method, "OOO", args[1], args[2], args[3]);
  if (!r)
    return NULL;
  int rc = (int)PyLong_AsLong (r);
  Py_DECREF (r);
  return PyErr_Occurred () ? NULL : answer (fail, rc);
}

/* The arguments as the core wants them; false: an exception is set. */
static bool
arguments (PyObject *const *args, Py_ssize_t n, Py_buffer **buffer, uint64_t *offset,
           unsigned long *flags)
{
  if (n != 4 || !PyMemoryView_Check (args[1])) {
    PyErr_SetString (PyExc_TypeError, "a callback of nbdkit: (handle, memoryview, offset, flags)");
    return false;
  }
  *buffer = PyMemoryView_GET_BUFFER (args[1]);
  *offset = PyLong_AsUnsignedLongLong (args[2]);
  *flags = PyLong_AsUnsignedLong (args[3]);
  return !PyErr_Occurred ();
}

static PyObject *
callback_pread (PyObject *fail, PyObject *const *args, Py_ssize_t n)
{
  Py_buffer *b;
  uint64_t offset;
  unsigned long flags;
  int rc;
  if (!arguments (args, n, &b, &offset, &flags))
    return NULL;
  if (!PyObject_TypeCheck (args[0], client_type))
    return pass_on (fail, "pread", args);
  struct client *c = (struct client *)args[0];
  fm_pin ();
  Py_BEGIN_ALLOW_THREADS
  rc = for_client (c, fm_volume_read (c->volume, b->buf, (uint64_t)b->len, offset));
  Py_END_ALLOW_THREADS
  return answer (fail, rc);
}

static PyObject *
callback_pwrite (PyObject *fail, PyObject *const *args, Py_ssize_t n)
{
  Py_buffer *b;
  uint64_t offset;
  unsigned long flags;
  int rc;
  if (!arguments (args, n, &b, &offset, &flags))
    return NULL;
  if (!PyObject_TypeCheck (args[0], client_type))
    return pass_on (fail, "pwrite", args);
  struct client *c = (struct client *)args[0];
  fm_pin ();
  Py_BEGIN_ALLOW_THREADS
  rc = for_client (c, fm_volume_write (c->volume, c->session, b->buf, (uint64_t)b->len, offset,
                                    flags & NBDKIT_FLAG_FUA ? FM_FUA : 0));
  Py_END_ALLOW_THREADS
  return answer (fail, rc);
}

static PyMethodDef hot_defs[] = {
  { "pwrite", (PyCFunction)(void (*) (void))callback_pwrite, METH_FASTCALL, NULL },
  { "pread", (PyCFunction)(void (*) (void))callback_pread, METH_FASTCALL, NULL },
};
enum { NHOT = sizeof hot_defs / sizeof hot_defs[0] };
static PyObject *hot[NHOT];

/* ---- the plugin's module ---- */

/* nbdkit asks the module for a callback by its C name at every request.  Python would
 * make a string of it and search two types before the module: 5 % of a request. */
static PyObject *
plugin_getattr (PyObject *module, char *name)
{
  for (unsigned i = 0; i < NHOT; i++)
    if (strcmp (name, hot_defs[i].ml_name) == 0)
      return Py_NewRef (hot[i]);
  PyObject *key = PyUnicode_FromString (name);
  PyObject *value = key ? PyModule_Type.tp_getattro (module, key) : NULL;
  Py_XDECREF (key);
  return value;
}

static PyObject *
plugin_getattro (PyObject *module, PyObject *key)
{
  return PyModule_Type.tp_getattro (module, key);
}

static PyType_Slot plugin_slots[] = {
  { Py_tp_base, NULL }, /* the type of modules: no constant of the compiler's */
  { Py_tp_getattr, plugin_getattr },
  { Py_tp_getattro, plugin_getattro },
  { 0, NULL },
};

static PyType_Spec plugin_spec = {
  .name = "mirror_core._client.Plugin",
  .flags = Py_TPFLAGS_DEFAULT,
  .slots = plugin_slots,
};

static PyObject *
take_hot_calls (PyObject *self, PyObject *args)
{
  (void)self;
  PyObject *module, *fail;
  if (!PyArg_ParseTuple (args, "O!O:take_hot_calls", &PyModule_Type, &module, &fail))
    return NULL;
  for (unsigned i = 0; i < NHOT; i++) {
    Py_XSETREF (hot[i], PyCFunction_New (&hot_defs[i], fail));
    if (!hot[i] || PyObject_SetAttrString (module, hot_defs[i].ml_name, hot[i]) < 0)
      return NULL;
  }
  plugin_slots[0].pfunc = &PyModule_Type;
  PyObject *type = PyType_FromSpec (&plugin_spec);
  int rc = type ? PyObject_SetAttrString (module, "__class__", type) : -1;
  Py_XDECREF (type);
  if (rc < 0)
    return NULL;
  Py_RETURN_NONE;
}

/* ---- the type of clients, and the module ---- */

static PyObject *
client_new (PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
  (void)kwargs;
  unsigned long long volume, session;
  if (!PyArg_ParseTuple (args, "KK", &volume, &session))
    return NULL;
  struct client *c = (struct client *)type->tp_alloc (type, 0);
  if (c) {
    c->volume = (struct fm_volume *)(uintptr_t)volume;
    c->session = session;
    c->news = fm_news_begin (c->volume);
    if (!c->news) {
      Py_DECREF (c);
      return PyErr_NoMemory ();
    }
  }
  return (PyObject *)c;
}

static PyObject *
client_zero (PyObject *self, PyObject *args)
{
  struct client *c = (struct client *)self;
  unsigned long long count, offset;
  unsigned flags;
  int rc;
  if (!PyArg_ParseTuple (args, "KKI", &count, &offset, &flags))
    return NULL;
  fm_pin ();
  Py_BEGIN_ALLOW_THREADS
  rc = for_client (c, fm_volume_zero (c->volume, c->session, count, offset, flags));
  Py_END_ALLOW_THREADS
  return PyLong_FromLong (rc);
}

static PyObject *
client_flush (PyObject *self, PyObject *none)
{
  (void)none;
  struct client *c = (struct client *)self;
  int rc;
  fm_pin ();
  Py_BEGIN_ALLOW_THREADS
  rc = for_client (c, fm_news_flush (c->volume, c->news));
  Py_END_ALLOW_THREADS
  return PyLong_FromLong (rc);
}

static PyObject *
client_close (PyObject *self, PyObject *none)
{
  (void)none;
  struct client *c = (struct client *)self;
  if (c->news)
    fm_news_end (c->volume, c->news);
  c->news = NULL;
  Py_RETURN_NONE;
}

static PyMethodDef client_methods[] = {
  { "_zero", client_zero, METH_VARARGS, NULL },
  { "_flush", client_flush, METH_NOARGS, NULL },
  { "close", client_close, METH_NOARGS, NULL },
  { NULL, NULL, 0, NULL },
};

static PyType_Slot client_slots[] = {
  { Py_tp_new, client_new },
  { Py_tp_methods, client_methods },
  { 0, NULL },
};

static PyType_Spec client_spec = {
  .name = "mirror_core._client.Client",
  .basicsize = sizeof (struct client),
  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
  .slots = client_slots,
};

static PyMethodDef functions[] = {
  { "take_hot_calls", take_hot_calls, METH_VARARGS, NULL },
  { NULL, NULL, 0, NULL },
};

static struct PyModuleDef definition = {
  PyModuleDef_HEAD_INIT, .m_name = "mirror_core._client", .m_size = -1, .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__client (void)
{
  client_type = (PyTypeObject *)PyType_FromSpec (&client_spec);
  PyObject *module = client_type ? PyModule_Create (&definition) : NULL;
  if (module && PyModule_AddObjectRef (module, "Client", (PyObject *)client_type) < 0)
    Py_CLEAR (module);
  return module;
}
