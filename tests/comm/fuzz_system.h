/* fuzz_system.h: a link in memory instead of a socket, for fuzz_frames.c. */
#ifndef EPF_TEST_FUZZ_SYSTEM_H
#define EPF_TEST_FUZZ_SYSTEM_H

#include <sys/socket.h>

enum { FUZZ_SYSTEM_LINK = (1 << 20) - 1 }; /* the descriptor of the near end */

void fuzz_system_begin(void);

/* Nothing is left open or mapped but what still lies in the link. */
void fuzz_system_end(void);

/* A message from the far end. */
void fuzz_system_send(const struct msghdr *header);

#endif
