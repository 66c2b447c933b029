/*
 * epf_link.h: frames over local sockets, between processes of one user.
 *
 * A link is a connected AF_UNIX socket of whole messages (SOCK_SEQPACKET), so a frame is there or
 * it is not: giving up in the middle never leaves a stream out of step.  Names are abstract: the
 * kernel forgets them with their socket.  Nothing here waits; whoever waits polls with a deadline.
 */
#ifndef EPF_LINK_H
#define EPF_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epfuse/epfuse_status.h"

enum {
    EPF_LINK_NAME_BYTES = 96,
    EPF_FRAME_PAYLOAD_BYTES = 16384 /* most that one frame carries */
};

typedef struct epf_link_name {
    char text[EPF_LINK_NAME_BYTES]; /* without the leading zero byte of an abstract name */
} epf_link_name;

typedef enum epf_frame_type {
    EPF_FRAME_JOIN = 1, /* to the rendezvous: here I am                */
    EPF_FRAME_TABLE,    /* from it: where everybody is                 */
    EPF_FRAME_REFUSE,   /* from it: no, and why (text)                 */
    EPF_FRAME_HELLO,    /* first on a mesh link, by the higher rank    */
    EPF_FRAME_WELCOME,  /* the answer                                  */
    EPF_FRAME_DATA      /* of a collective                             */
} epf_frame_type;

/* The head of every message; processes of one machine share its byte order. */
typedef struct epf_frame {
    uint32_t magic;
    uint16_t version;
    uint16_t type;
    int32_t rank;         /* the sender's                                        */
    uint32_t collective;  /* DATA: epf_collective                                */
    uint64_t generation;  /* DATA: grows with every reset                        */
    uint64_t sequence;    /* DATA: of the collective inside its generation       */
    uint64_t total_bytes; /* DATA: of the collective, from this rank             */
    uint64_t offset;      /* DATA: of this payload in them                       */
    uint32_t payload_bytes;
    uint32_t has_fd; /* 1: a descriptor travels with it                     */
} epf_frame;

typedef enum epf_link_result {
    EPF_LINK_DONE,
    EPF_LINK_AGAIN, /* nothing to read, or no room to write: poll          */
    EPF_LINK_BUSY,  /* the kernel is short of something: try again soon    */
    EPF_LINK_GONE,  /* the other end is closed                             */
    EPF_LINK_BAD    /* what came is no frame of this version               */
} epf_link_result;

/* `bytes` random bytes from the kernel. */
epf_status epf_link_random(void *bytes, size_t num_bytes);

/* The name of the listener with this random number. */
epf_link_name epf_link_name_of(uint64_t id);

/* A listener; EPF_E_STATE where the name is taken. */
epf_status epf_link_listen(const epf_link_name *name, int *fd);

/* Connects to a listener of our own user.  AGAIN: its queue is full; GONE: nobody listens; BAD: it
 * is not our user's, or the system refused. */
epf_link_result epf_link_connect(const epf_link_name *name, int *fd);

/* A pending connection; those of other users are closed unheard.  AGAIN: none is there. */
epf_link_result epf_link_accept(int listener, int *fd);

/* magic, version and payload_bytes of `frame` are filled in.  fd -1: none. */
epf_link_result epf_link_send(int link, epf_frame *frame, const void *payload, size_t bytes,
                              int fd);

/* payload has room for EPF_FRAME_PAYLOAD_BYTES.  *fd is -1 where none came; the caller closes it.
 */
epf_link_result epf_link_recv(int link, epf_frame *frame, void *payload, int *fd);

/* The next frame's head; it stays where it is. */
epf_link_result epf_link_peek(int link, epf_frame *frame);

/* Closes where fd >= 0, and makes it -1. */
void epf_link_close(int *fd);

#endif
