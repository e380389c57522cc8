/* Preloaded into user-mode Linux on a processor whose registers are more than it knows.
 *
 * It saves and restores a program's registers by ptrace(2) in 2,696 bytes (AVX-512).  A host whose processor has AMX,
 * too, takes only the whole set back, of some 11,000 bytes, so the first program of every guest would die ("ptrace set
 * fp regs failed").  What user-mode Linux does not know of stays as it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#define NT_X86_XSTATE 0x202 /* linux/elf.h */

typedef long call (enum __ptrace_request request, ...);

long
ptrace (enum __ptrace_request request, ...)
{
  static call *libc;
  static char all[1 << 16]; /* one thread of it asks */
  if (!libc)
    libc = (call *)dlsym (RTLD_NEXT, "ptrace");
  va_list list;
  va_start (list, request);
  int pid = va_arg (list, int);
  void *addr = va_arg (list, void *), *data = va_arg (list, void *);
  va_end (list);
  if ((request != PTRACE_GETREGSET && request != PTRACE_SETREGSET) || addr != (void *)NT_X86_XSTATE)
    return libc (request, pid, addr, data);
  struct iovec *asked = data, whole = { all, sizeof all };
  long rc = libc (PTRACE_GETREGSET, pid, addr, &whole);
  if (rc < 0)
    return rc;
  if (asked->iov_len > whole.iov_len)
    asked->iov_len = whole.iov_len;
  if (request == PTRACE_GETREGSET) {
    memcpy (asked->iov_base, all, asked->iov_len);
    return rc;
  }
  memcpy (all, asked->iov_base, asked->iov_len);
  return libc (PTRACE_SETREGSET, pid, addr, &whole);
}
