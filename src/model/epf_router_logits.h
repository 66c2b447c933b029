/* epf_router_logits.h: the router's matrix product; internal to epf_router.c. */
#ifndef EPF_ROUTER_LOGITS_H
#define EPF_ROUTER_LOGITS_H

#include <stddef.h>
#include <stdint.h>

enum {
    EPF_LOGITS_TOKENS = 8,  /* tokens of one call                               */
    EPF_LOGITS_EXPERTS = 16 /* experts of one panel; E is padded to a multiple  */
};

/*
 * Panels of the router weight [E, H]: panel p holds experts 16 p .. 16 p + 15 as [H][16], the last
 * one filled up with zeros.
 */
typedef struct epf_logits_weight {
    const float *panels; /* [num_panels][hidden][EPF_LOGITS_EXPERTS] */
    int64_t num_panels;
    int64_t hidden;
} epf_logits_weight;

/*
 * logits[t][e] = x[t] . W[e] for EPF_LOGITS_TOKENS tokens, as [tokens][num_panels * 16].
 *
 * Products and sums of 64 neighbours along H are fp32, in order; those partial sums are added in
 * double, in order.  Every logit has its own chain and no operation is fused, so its bits depend
 * neither on the other tokens of the call nor on the vector width of the machine.
 */
void epf_router_logits(const epf_logits_weight *weight, const float *const x[EPF_LOGITS_TOKENS],
                       double *logits);

/* How many versions this machine can run: 0 is plain C, each next one has wider vectors. */
int epf_router_logits_num_versions(void);

/* The same by version 0 .. number - 1; for the test that they agree to the bit. */
void epf_router_logits_version(int version, const epf_logits_weight *weight,
                               const float *const x[EPF_LOGITS_TOKENS], double *logits);

#endif
