/* A way between a client and a server of the tests: how fast it is, and which of its connections
 * carry nothing any more. */
#ifndef FM_RELAY_H
#define FM_RELAY_H

#include "lab.h"

struct relay;

/* In front of this server; `rate`: bytes a second that all connections together carry to the server,
 * 0: any. */
struct relay *relay_open (const struct lab_server *s, uint64_t rate);
const char *relay_uri (const struct relay *r);
/* Of the connections that there are, in the order in which they were opened, this one carries
 * nothing from now on. */
void relay_silence (struct relay *r, unsigned number);
unsigned relay_connections (struct relay *r); /* that were opened so far */
void relay_cut (struct relay *r, unsigned number); /* that one ends, on both sides */
void relay_close (struct relay *r);           /* ends them all */

#endif
