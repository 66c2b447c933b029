/* mutate_text.c: tokens of JSON or of a Python literal, changed, doubled, exchanged, left out. */
#include <stdio.h>
#include <string.h>

#include "mutate.h"

typedef struct token {
    size_t at, length;
} token;

enum { MAX_TOKENS = 4096, COPY_BYTES = 4096 };

static token tokens[MAX_TOKENS];

static const char *const numbers[] = {"0",
                                      "1",
                                      "-1",
                                      "2",
                                      "8",
                                      "64",
                                      "4294967296",
                                      "2147483648",
                                      "9223372036854775807",
                                      "9223372036854775808",
                                      "18446744073709551616",
                                      "1e3",
                                      "0.5",
                                      "-0",
                                      "1e400"};
static const char *const words[] = {"\"\"",
                                    "\"a\"",
                                    "\"\\u0061\"",
                                    "\"\\u0000\"",
                                    "\"..\"",
                                    "\"../x\"",
                                    "\"/x\"",
                                    "null",
                                    "true",
                                    "{}",
                                    "[]",
                                    "\"F32\"",
                                    "\"BF16\"",
                                    "\"F4\"",
                                    "\"U8\"",
                                    "'<f4'",
                                    "'<f2'",
                                    "(1,)",
                                    "\"dtype\"",
                                    "\"shape\"",
                                    "\"data_offsets\"",
                                    "\"__metadata__\"",
                                    "\"weight_map\"",
                                    "\"n_group\"",
                                    "\"topk_group\"",
                                    "\"num_experts\"",
                                    "\"mlp_only_layers\""};

size_t mutate_splice(uint8_t *data, size_t size, size_t max_size, size_t at, size_t length,
                     const void *bytes, size_t num_bytes)
{
    if (size - length + num_bytes > max_size) {
        return size;
    }
    memmove(data + at + num_bytes, data + at + length, size - at - length);
    if (num_bytes > 0) {
        memcpy(data + at, bytes, num_bytes);
    }
    return size - length + num_bytes;
}

static bool is_word(uint8_t c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '+' || c == '.';
}

static size_t split(const uint8_t *text, size_t size)
{
    size_t count = 0;
    for (size_t at = 0; at < size && count < MAX_TOKENS; count++) {
        size_t end = at + 1;
        if (text[at] == '"' || text[at] == '\'') {
            while (end < size && text[end] != text[at]) {
                end += text[end] == '\\' && end + 1 < size ? 2 : 1;
            }
            end += end < size ? 1 : 0;
        } else if (is_word(text[at])) {
            while (end < size && is_word(text[end])) {
                end++;
            }
        }
        tokens[count] = (token){at, end - at};
        at = end;
    }
    return count;
}

/* Where the bracket at token i is closed. */
static size_t close_of(const uint8_t *text, size_t count, size_t i)
{
    int depth = 0;
    for (; i < count; i++) {
        const uint8_t c = text[tokens[i].at];
        depth += c == '{' || c == '[' || c == '(';
        depth -= c == '}' || c == ']' || c == ')';
        if (depth <= 0) {
            break;
        }
    }
    return i < count ? i : count - 1;
}

/* A member or item: from token i to the comma or bracket that ends it. */
static size_t end_of_item(const uint8_t *text, size_t count, size_t i)
{
    while (i < count) {
        const uint8_t c = text[tokens[i].at];
        if (c == '{' || c == '[' || c == '(') {
            i = close_of(text, count, i);
        } else if (c == ',' || c == '}' || c == ']' || c == ')') {
            break;
        }
        i++;
    }
    return i < count ? tokens[i].at : tokens[count - 1].at + tokens[count - 1].length;
}

static size_t put_number(mutation *m, uint8_t *text, size_t size, size_t max_size, const token *t)
{
    char near[32];
    const char *with = numbers[mutate_random(m, sizeof numbers / sizeof *numbers)];
    if (mutate_random(m, 2) == 0) {
        char copy[24] = "";
        unsigned long long value = 0;
        memcpy(copy, text + t->at, t->length < sizeof copy ? t->length : sizeof copy - 1);
        (void)sscanf(copy, "%llu", &value);
        (void)snprintf(near, sizeof near, "%llu", value + mutate_random(m, 9) - 4);
        with = near;
    }
    return mutate_splice(text, size, max_size, t->at, t->length, with, strlen(with));
}

static size_t copy_item(mutation *m, uint8_t *text, size_t size, size_t max_size, size_t count,
                        size_t i)
{
    uint8_t copy[COPY_BYTES];
    const size_t begin = tokens[i].at;
    size_t length = end_of_item(text, count, i) - begin;
    size_t to = begin;
    length = length < sizeof copy - 1 ? length : sizeof copy - 1;
    memcpy(copy, text + begin, length);
    copy[length] = ',';
    for (uint64_t tries = mutate_random(m, count); tries > 0 && to == begin; tries--) {
        to = text[tokens[tries].at] == '{' ? tokens[tries].at + 1 : begin;
    }
    return mutate_splice(text, size, max_size, to, 0, copy, length + 1);
}

size_t mutate_text(mutation *m, uint8_t *text, size_t size, size_t max_size)
{
    const size_t count = split(text, size);
    size_t i;
    const char *word;
    if (count == 0 || mutate_random(m, 4) == 0) {
        return LLVMFuzzerMutate(text, size, max_size);
    }
    i = (size_t)mutate_random(m, count);
    for (size_t tries = 0;
         tries < count && (text[tokens[i].at] == ' ' || text[tokens[i].at] == ','); tries++) {
        i = (i + 1) % count;
    }
    switch (mutate_random(m, 5)) {
    case 0: /* a number, where one is near */
        for (size_t tries = 0; tries < 16 && (text[tokens[i].at] < '0' || text[tokens[i].at] > '9');
             tries++) {
            i = (i + 1) % count;
        }
        return put_number(m, text, size, max_size, &tokens[i]);
    case 1:
        word = words[mutate_random(m, sizeof words / sizeof *words)];
        return mutate_splice(text, size, max_size, tokens[i].at, tokens[i].length, word,
                             strlen(word));
    case 2:
        return copy_item(m, text, size, max_size, count, i);
    case 3: /* an item less */
        return mutate_splice(text, size, max_size, tokens[i].at,
                             end_of_item(text, count, i) - tokens[i].at, "", 0);
    default: /* a token of elsewhere */
    {
        uint8_t copy[COPY_BYTES];
        const token *const from = &tokens[mutate_random(m, count)];
        const size_t length = from->length < sizeof copy ? from->length : sizeof copy;
        memcpy(copy, text + from->at, length);
        return mutate_splice(text, size, max_size, tokens[i].at, tokens[i].length, copy, length);
    }
    }
}
