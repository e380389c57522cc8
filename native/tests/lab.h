/* What tests work on: scratch files, and NBD servers that can be killed. */
#ifndef FM_LAB_H
#define FM_LAB_H

#include "store.h"

#include <stdint.h>
#include <sys/types.h>

#define LAB_TIMEOUT_NS 2000000000ULL /* of the stores that are opened here */

/* A new file of this size in the scratch folder (removed at exit): open, and its path. */
int lab_file (uint64_t size, char path[108]);
/* The same as a store; `fd` is a descriptor of the test's own, to look at the bytes. */
struct fm_store *lab_file_store (uint64_t size, int *fd);

struct lab_server {
  pid_t pid;
  char socket[108], uri[160];
};

/* nbdkit with these arguments (separated by commas), ready to be connected to; on
 * the socket that `s` already names, if it does. */
void lab_serve (struct lab_server *s, const char *arguments);
void lab_kill (struct lab_server *s);
void lab_stop (struct lab_server *s); /* it falls silent; SIGCONT or lab_kill ends that */
struct fm_store *lab_nbd_store (const struct lab_server *s);

#endif
