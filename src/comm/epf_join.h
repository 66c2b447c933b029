/*
 * epf_join.h: how processes find each other: through the caller's all-gather, or through a
 * rendezvous.
 *
 * A rendezvous is an abstract socket whose name all ranks of a job derive from the user and the
 * job.  Rank 0 listens there, learns where every other rank listens, and tells all; then it is
 * gone.
 */
#ifndef EPF_JOIN_H
#define EPF_JOIN_H

#include "comm/epf_comm.h"
#include "comm/epf_link.h"

/* The rendezvous' name for this user and job. */
epf_link_name epf_rendezvous_name(const char *job);

/* Collective: a group of config->num_ranks processes that know the same job text. */
epf_status epf_comm_create_rendezvous(const epf_comm_config *config, const char *job,
                                      epf_comm **comm);

#endif
