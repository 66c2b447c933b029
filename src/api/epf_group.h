/* epf_group.h: inside of a group handle. */
#ifndef EPF_GROUP_H
#define EPF_GROUP_H

#include "comm/epf_comm.h"
#include "epfuse/epfuse.h"

struct epf_group {
    epf_comm *comm;
};

/* A group over a comm made elsewhere (the command's launcher); takes it over on success. */
epf_status epf_group_adopt(epf_comm *comm, epf_group **group);

#endif
