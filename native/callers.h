/* The connections that were accepted on a site's sockets, and their end.
 *
 * nbdkit accepts them and keeps their descriptors to itself.  They are found among those of this
 * process by their own address: the path of the Unix socket, or one of the ports.  In C because
 * it is done most often in a flood, when very many threads want the GIL.
 *
 * A descriptor may be closed, and its number used again, at any moment: whoever shuts a
 * connection down names its peer too, which is looked at once more.
 */
#ifndef FM_CALLERS_H
#define FM_CALLERS_H

#include <stdint.h>

struct fm_caller {
  int fd;
  uint16_t port; /* of the peer; 0: it came by the Unix socket */
  char host[46]; /* its number, as inet_ntop(3) writes it */
};

/* Up to `max` of them into `out`; how many, or -errno: it cannot be looked, such as without a
 * descriptor for it. */
int fm_callers (const char *path, const uint16_t *ports, unsigned nports, struct fm_caller *out,
                unsigned max);

/* shutdown(2) of the connection, if it is still that one's. */
void fm_caller_shut (const struct fm_caller *c, int how);

#endif
