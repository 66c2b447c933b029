/*
 * epf_router.h: from hidden states to expert ids and weights.
 *
 *     logit   x . W[e]
 *     score   softmax over e, or sigmoid
 *     choice  score (+ bias[e], EPF_TOPK_GROUP_TOP2_SUM only)
 *     groups  E / G experts each; a group's rank is its best choice (GROUP_MAX) or the sum of its
 *             two best (GROUP_TOP2_SUM); experts outside the topk_groups best groups are out
 *     ids     the K best by choice, descending
 *     weight  score of the chosen, without bias; divided by (sum + norm_epsilon) if norm_topk_prob;
 *             times scaling_factor
 *
 * Ties go to the lowest index, among experts and among groups; -0 equals +0; transformers leaves
 * ties open (torch.topk).  Logits are fp32 or double here, and all that follows is double: some
 * families of transformers round logits and weights to the model's type, we never do, so results
 * are those of the model run in float32.
 */
#ifndef EPF_ROUTER_H
#define EPF_ROUTER_H

#include "model/epf_model_config.h"
#include "model/epf_tensor.h"

typedef struct epf_router epf_router; /* immutable once made; any number of threads may run it */

/*
 * weight [E, H] and bias [E] (NULL or data == NULL if routing.has_bias is false) are copied, fp32.
 * EPF_E_INVALID: shapes do not fit the config; EPF_E_FORMAT: NaN or infinity among them;
 * EPF_E_NO_MEMORY.
 */
epf_status epf_router_create(const epf_model_config *config, const epf_tensor_view *weight,
                             const epf_tensor_view *bias, epf_router **router);
void epf_router_destroy(epf_router *router);

typedef struct epf_router_args {
    const float *hidden; /* [T, H] */
    int64_t num_tokens;  /* T; 0 is fine */
    int64_t first_token; /* added to a token's number in messages */
    int32_t *topk_idx;   /* [T, K] out: expert ids, best first */
    float *topk_weight;  /* [T, K] out */
} epf_router_args;

/* EPF_E_FORMAT: a token has a NaN or infinite logit; the message names token and expert.  Outputs
 * are undefined on failure.  Same input, same bits, whatever T is cut into. */
epf_status epf_router_run(const epf_router *router, const epf_router_args *args);

typedef struct epf_router_f64_args {
    const float *hidden; /* [T, H] */
    int64_t num_tokens;
    int64_t first_token;
    int32_t *topk_idx;   /* [T, K] out */
    double *topk_weight; /* [T, K] out */
    double *margin;      /* [T] out or NULL: how far the choice was from another one: the least
                             of (K-th choice - next) and, with groups, (last group kept - next);
                             infinity if there was nothing else to choose */
} epf_router_f64_args;

/* The same rule in double precision, written plainly: the reference of --check. */
epf_status epf_router_run_f64(const epf_router *router, const epf_router_f64_args *args);

#endif
