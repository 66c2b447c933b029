/*
 * fault_world.h: ranks as real processes that find each other by the environment, and an account of what
 * they leave behind.
 */
#ifndef FAULT_WORLD_H
#define FAULT_WORLD_H

#include <stdbool.h>
#include <sys/types.h>

#include "epfuse/epfuse.h"

typedef struct fault_seat {
    int32_t rank, num_ranks;
    uint64_t timeout_ns; /* 0: the default */
    uint64_t job;        /* equal on all ranks of the group, different from that of any other */
} fault_seat;

/* Joins the group by EPFUSE_RANK, EPFUSE_NUM_RANKS and EPFUSE_RENDEZVOUS.  Collective. */
epf_status fault_join(const fault_seat *seat, epf_group **group);

/* Open descriptors of this process. */
int32_t fault_num_descriptors(void);

/* Nanoseconds that the main thread of a process was ready to run but had no core. */
uint64_t fault_starved_ns(pid_t pid);

/* Sleeps that long, whatever signals come. */
void fault_sleep_ns(uint64_t ns);

/*
 * A place of our own for what processes might leave: an empty temp folder, and, where the system lets us,
 * an empty /dev/shm and no sockets but our own.
 */
typedef struct fault_place {
    char temp[64];
    bool is_private; /* /dev/shm and the list of sockets are ours alone */
    int32_t num_descriptors;
    int32_t num_shm; /* files in /dev/shm before */
} fault_place;

/* Once per process, before others are forked: they get the place as well. */
bool fault_place_enter(fault_place *place);
/* What was left, in words, or NULL; no child is expected to live. */
const char *fault_place_check(const fault_place *place, char text[160]);
void fault_place_leave(const fault_place *place);

#endif
