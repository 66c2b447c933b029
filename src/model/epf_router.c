/*
 * epf_router.c: the rule of epf_router.h, one token at a time.
 *
 * Single and double precision differ only in how logits are made; what follows is the same code.
 */
#include "model/epf_router.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/epf_alloc.h"
#include "base/epf_error.h"
#include "core/epf_base.h"
#include "model/epf_router_logits.h"

struct epf_router {
    epf_routing routing;
    int64_t hidden;
    epf_logits_weight weight;
    float *panels; /* weight.panels, owned */
    float *bias;   /* [E]; zeros where the model has none */
};

/* Scratch for one token. */
typedef struct scratch {
    double *score;  /* [E] */
    double *choice; /* [E]; -infinity once an expert is out */
    double *group;  /* [num_groups]; likewise */
    double *logits; /* [EPF_LOGITS_TOKENS, padded E] */
} scratch;

/* What one token's routing writes. */
typedef struct token_out {
    int32_t *idx;   /* [K] */
    double *weight; /* [K] */
    double margin;
} token_out;

static epf_status check_weight(const epf_model_config *config, const epf_tensor_view *weight,
                               const epf_tensor_view *bias)
{
    const epf_routing *routing = &config->routing;
    EPF_CHECK_ARG(
        weight != NULL && weight->data != NULL && weight->num_dims == 2 &&
            weight->shape[0] == routing->num_experts && weight->shape[1] == config->hidden,
        "router: the weight is missing or not [%d, %d]", routing->num_experts, config->hidden);
    EPF_CHECK_ARG(!routing->has_bias ||
                      (bias != NULL && bias->data != NULL && bias->num_dims == 1 &&
                       bias->shape[0] == routing->num_experts),
                  "router: the bias is missing or not [%d]", routing->num_experts);
    return EPF_OK;
}

static epf_status check_finite(const epf_tensor_view *view, const float *values, int64_t count,
                               int64_t first)
{
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(values[i])) {
            return EPF_FAIL(EPF_E_FORMAT, "%s: tensor '%s': element %" PRId64 " is %s",
                            view->file != NULL ? view->file : "router", view->name, first + i,
                            isnan(values[i]) ? "NaN" : "infinite");
        }
    }
    return EPF_OK;
}

/* Spreads row e of W over column e % 16 of its panel. */
static epf_status fill_panels(epf_router *router, const epf_tensor_view *weight, float *row)
{
    const int64_t hidden = router->hidden;
    for (int64_t e = 0; e < router->routing.num_experts; e++) {
        float *column = router->panels + (e / EPF_LOGITS_EXPERTS) * hidden * EPF_LOGITS_EXPERTS +
                        e % EPF_LOGITS_EXPERTS;
        EPF_TRY(epf_tensor_convert(weight, e * hidden, hidden, EPF_DTYPE_F32, row));
        EPF_TRY(check_finite(weight, row, hidden, e * hidden));
        for (int64_t h = 0; h < hidden; h++) {
            column[h * EPF_LOGITS_EXPERTS] = row[h];
        }
    }
    return EPF_OK;
}

static epf_status fill(epf_router *router, const epf_tensor_view *weight,
                       const epf_tensor_view *bias)
{
    const int64_t num_experts = router->routing.num_experts;
    float *row = epf_alloc((size_t)router->hidden, sizeof row[0]);
    epf_status st;
    router->panels = epf_alloc_aligned((size_t)(router->weight.num_panels * router->hidden),
                                       EPF_LOGITS_EXPERTS * sizeof(float), 64);
    router->bias = epf_alloc((size_t)num_experts, sizeof router->bias[0]);
    if (row == NULL || router->panels == NULL || router->bias == NULL) {
        epf_free(row);
        return EPF_FAIL(EPF_E_NO_MEMORY, "router: no memory for its weight");
    }
    memset(router->panels, 0,
           (size_t)(router->weight.num_panels * router->hidden) * EPF_LOGITS_EXPERTS *
               sizeof(float));
    router->weight.panels = router->panels;
    st = fill_panels(router, weight, row);
    epf_free(row);
    EPF_TRY(st);
    if (!router->routing.has_bias) {
        return EPF_OK;
    }
    EPF_TRY(epf_tensor_convert(bias, 0, num_experts, EPF_DTYPE_F32, router->bias));
    return check_finite(bias, router->bias, num_experts, 0);
}

epf_status epf_router_create(const epf_model_config *config, const epf_tensor_view *weight,
                             const epf_tensor_view *bias, epf_router **router)
{
    epf_router *made;
    epf_status st;
    EPF_CHECK_ARG(config != NULL && router != NULL, "router: NULL argument");
    EPF_TRY(check_weight(config, weight, bias));
    made = epf_alloc(1, sizeof *made);
    if (made == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "router: no memory");
    }
    made->routing = config->routing;
    made->hidden = config->hidden;
    made->weight.hidden = config->hidden;
    made->weight.num_panels = epf_ceil_div(config->routing.num_experts, EPF_LOGITS_EXPERTS);
    st = fill(made, weight, bias);
    if (st != EPF_OK) {
        epf_router_destroy(made);
        return st;
    }
    *router = made;
    return EPF_OK;
}

void epf_router_destroy(epf_router *router)
{
    if (router != NULL) {
        epf_free(router->panels);
        epf_free(router->bias);
        epf_free(router);
    }
}

/* The first of the largest; -1 if all are out. */
static int32_t find_best(const double *values, int32_t count)
{
    int32_t best = -1;
    for (int32_t i = 0; i < count; i++) {
        if (values[i] > (best < 0 ? -INFINITY : values[best])) {
            best = i;
        }
    }
    return best;
}

static void make_scores(const epf_routing *routing, const double *logits, double *score)
{
    const int32_t count = routing->num_experts;
    double sum = 0.0;
    if (routing->score_func == EPF_SCORE_SIGMOID) {
        for (int32_t e = 0; e < count; e++) {
            score[e] = 1.0 / (1.0 + exp(-logits[e]));
        }
        return;
    }
    const double largest = logits[find_best(logits, count)];
    for (int32_t e = 0; e < count; e++) {
        score[e] = exp(logits[e] - largest);
        sum += score[e];
    }
    for (int32_t e = 0; e < count; e++) {
        score[e] /= sum;
    }
}

/* What ranks a group: its best choice, or the sum of its two best. */
static double rank_group(const epf_routing *routing, const double *choice, int32_t size)
{
    double best = choice[0];
    double second = -INFINITY;
    for (int32_t i = 1; i < size; i++) {
        if (choice[i] > best) {
            second = best;
            best = choice[i];
        } else if (choice[i] > second) {
            second = choice[i];
        }
    }
    return routing->topk_method == EPF_TOPK_GROUP_MAX ? best : best + second;
}

/* Takes the `count` best of values[0 .. total) out, marking them; returns last taken less next. */
static double take_best(double *values, int32_t total, int32_t count, int32_t *idx)
{
    double last = INFINITY;
    int32_t next;
    for (int32_t k = 0; k < count; k++) {
        const int32_t best = find_best(values, total);
        last = values[best];
        values[best] = -INFINITY;
        if (idx != NULL) {
            idx[k] = best;
        }
    }
    next = find_best(values, total);
    return next < 0 ? INFINITY : last - values[next];
}

/* Puts the experts of all but the best groups out; those taken are marked, so the rest stand. */
static double limit_groups(const epf_routing *routing, scratch *s)
{
    const int32_t size = routing->num_experts / routing->num_groups;
    double margin;
    for (int32_t g = 0; g < routing->num_groups; g++) {
        s->group[g] = rank_group(routing, s->choice + (int64_t)g * size, size);
    }
    margin = take_best(s->group, routing->num_groups, routing->topk_groups, NULL);
    for (int32_t g = 0; g < routing->num_groups; g++) {
        for (int32_t i = 0; i < size && s->group[g] != -INFINITY; i++) {
            s->choice[(int64_t)g * size + i] = -INFINITY;
        }
    }
    return margin;
}

/* From logits to ids and weights; logits are finite. */
static void route_token(const epf_router *router, const double *logits, scratch *s, token_out *out)
{
    const epf_routing *routing = &router->routing;
    double sum = routing->norm_epsilon;
    double margin;
    make_scores(routing, logits, s->score);
    for (int32_t e = 0; e < routing->num_experts; e++) {
        s->choice[e] = s->score[e] + (double)router->bias[e];
    }
    out->margin = routing->topk_method == EPF_TOPK_GREEDY ? INFINITY : limit_groups(routing, s);
    margin = take_best(s->choice, routing->num_experts, routing->topk, out->idx);
    out->margin = margin < out->margin ? margin : out->margin;
    for (int32_t k = 0; k < routing->topk; k++) {
        out->weight[k] = s->score[out->idx[k]];
        sum += out->weight[k];
    }
    for (int32_t k = 0; k < routing->topk; k++) {
        out->weight[k] *= routing->scaling_factor / (routing->norm_topk_prob ? sum : 1.0);
    }
}

static epf_status check_logits(const epf_router *router, const double *logits, int64_t token)
{
    for (int32_t e = 0; e < router->routing.num_experts; e++) {
        if (!isfinite(logits[e])) {
            return EPF_FAIL(EPF_E_FORMAT,
                            "router: token %" PRId64 " has a logit that is %s (expert %d)", token,
                            isnan(logits[e]) ? "NaN" : "infinite", e);
        }
    }
    return EPF_OK;
}

/* One allocation for everything that routing needs; the caller frees s->score. */
static epf_status make_scratch(const epf_router *router, scratch *s, token_out *out)
{
    const int64_t padded = router->weight.num_panels * EPF_LOGITS_EXPERTS;
    const int64_t topk = router->routing.topk;
    double *room = epf_alloc((size_t)(padded * (EPF_LOGITS_TOKENS + 3) + topk), sizeof room[0]);
    if (room == NULL) {
        return EPF_FAIL(EPF_E_NO_MEMORY, "router: no memory for %" PRId64 " experts", padded);
    }
    s->score = room;
    s->choice = room + padded;
    s->group = room + 2 * padded;
    s->logits = room + 3 * padded;
    out->weight = s->logits + EPF_LOGITS_TOKENS * padded;
    return EPF_OK;
}

/* Routes tokens [first, first + EPF_LOGITS_TOKENS), as far as they exist. */
static epf_status run_block(const epf_router *router, const epf_router_args *args, int64_t first,
                            scratch *s, token_out *out)
{
    const int64_t padded = router->weight.num_panels * EPF_LOGITS_EXPERTS;
    const int64_t topk = router->routing.topk;
    const int64_t count = epf_min64(args->num_tokens - first, EPF_LOGITS_TOKENS);
    const float *rows[EPF_LOGITS_TOKENS];
    for (int64_t i = 0; i < EPF_LOGITS_TOKENS; i++) { /* a short block repeats its last token */
        rows[i] = args->hidden + (first + epf_min64(i, count - 1)) * router->hidden;
    }
    epf_router_logits(&router->weight, rows, s->logits);
    for (int64_t i = 0; i < count; i++) {
        const int64_t token = first + i;
        EPF_TRY(check_logits(router, s->logits + i * padded, args->first_token + token));
        out->idx = args->topk_idx + token * topk;
        route_token(router, s->logits + i * padded, s, out);
        for (int64_t k = 0; k < topk; k++) {
            args->topk_weight[token * topk + k] = (float)out->weight[k];
        }
    }
    return EPF_OK;
}

epf_status epf_router_run(const epf_router *router, const epf_router_args *args)
{
    scratch s = {.score = NULL};
    token_out out;
    epf_status st = EPF_OK;
    EPF_CHECK_ARG(router != NULL && args != NULL && args->num_tokens >= 0 &&
                      (args->num_tokens == 0 || (args->hidden != NULL && args->topk_idx != NULL &&
                                                 args->topk_weight != NULL)),
                  "router: NULL argument or a negative number of tokens");
    EPF_TRY(make_scratch(router, &s, &out));
    for (int64_t first = 0; first < args->num_tokens && st == EPF_OK; first += EPF_LOGITS_TOKENS) {
        st = run_block(router, args, first, &s, &out);
    }
    epf_free(s.score);
    return st;
}

/* Products and sums in double, h ascending; a panel's experts side by side, as they lie. */
static void logits_f64(const epf_router *router, const float *x, double *logits)
{
    const float *w = router->panels;
    for (int64_t p = 0; p < router->weight.num_panels; p++) {
        double sums[EPF_LOGITS_EXPERTS] = {0};
        for (int64_t h = 0; h < router->hidden; h++, w += EPF_LOGITS_EXPERTS) {
            for (int e = 0; e < EPF_LOGITS_EXPERTS; e++) {
                sums[e] += (double)x[h] * (double)w[e];
            }
        }
        memcpy(logits + p * EPF_LOGITS_EXPERTS, sums, sizeof sums);
    }
}

epf_status epf_router_run_f64(const epf_router *router, const epf_router_f64_args *args)
{
    scratch s = {.score = NULL};
    token_out out;
    epf_status st = EPF_OK;
    EPF_CHECK_ARG(router != NULL && args != NULL && args->num_tokens >= 0 &&
                      (args->num_tokens == 0 || (args->hidden != NULL && args->topk_idx != NULL &&
                                                 args->topk_weight != NULL)),
                  "router: NULL argument or a negative number of tokens");
    EPF_TRY(make_scratch(router, &s, &out));
    for (int64_t t = 0; t < args->num_tokens; t++) {
        const int64_t topk = router->routing.topk;
        logits_f64(router, args->hidden + t * router->hidden, s.logits);
        st = check_logits(router, s.logits, args->first_token + t);
        if (st != EPF_OK) {
            break;
        }
        out.idx = args->topk_idx + t * topk;
        route_token(router, s.logits, &s, &out);
        memcpy(args->topk_weight + t * topk, out.weight, (size_t)topk * sizeof out.weight[0]);
        if (args->margin != NULL) {
            args->margin[t] = out.margin;
        }
    }
    epf_free(s.score);
    return st;
}
