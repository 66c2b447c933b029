/* epf_json.c: the walker, and jansson behind two small functions. */
#include "model/epf_json.h"

#include <stdbool.h>
#include <string.h>

#include "base/epf_error.h"

enum { MAX_DEPTH = 64 };

uint64_t epf_json_offset(const epf_json_source *source, const char *at)
{
    return (uint64_t)(at - source->base);
}

const char *epf_printable(const char *text, size_t length, char out[EPF_PRINTABLE_BYTES])
{
    const size_t room = EPF_PRINTABLE_BYTES - 4; /* "..." and NUL */
    const size_t kept = length < room ? length : room;
    for (size_t i = 0; i < kept; i++) {
        out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    }
    memcpy(out + kept, length > room ? "..." : "", length > room ? 4 : 1);
    return out;
}

static epf_status syntax_error(const epf_json_source *source, const char *at, const char *reason)
{
    return EPF_FAIL(EPF_E_FORMAT, "%s: invalid JSON at byte %llu: %s", source->file,
                    (unsigned long long)epf_json_offset(source, at), reason);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *skip_blanks(const char *at, const char *end)
{
    while (at < end && is_blank(*at)) {
        at++;
    }
    return at;
}

/* One past the closing quote of the string that starts at `at`, or NULL if it never closes. */
static const char *skip_string(const char *at, const char *end)
{
    for (at++; at < end; at++) {
        if (*at == '"') {
            return at + 1;
        }
        if (*at == '\\' && at + 1 < end) {
            at++;
        }
    }
    return NULL;
}

/* One past the value at `at`: brackets are counted, their kinds and the inside are jansson's. */
static epf_status skip_value(const epf_json_object *object, const char *at, const char **past)
{
    const char *begin = at;
    int depth = 0;
    do {
        const char c = *at;
        if (c == '"') {
            const char *quote = at;
            at = skip_string(at, object->end);
            if (at == NULL) {
                return syntax_error(object->source, quote, "a string is not closed");
            }
            continue;
        }
        if (depth == 0 && (c == ',' || c == '}' || c == ']' || c == ':' || is_blank(c))) {
            break;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        if (depth > MAX_DEPTH) {
            return syntax_error(object->source, at, "nested more than 64 deep");
        }
        at++;
        if (depth == 0 && (c == '}' || c == ']')) {
            break;
        }
    } while (at < object->end);
    if (depth != 0) {
        return syntax_error(object->source, begin, "an object or array is not closed");
    }
    if (at == begin) {
        return syntax_error(object->source, begin, "a value is missing");
    }
    *past = at;
    return EPF_OK;
}

epf_status epf_json_object_open(epf_json_object *object, const epf_json_source *source,
                                epf_json_span text)
{
    object->source = source;
    object->end = text.text + text.length;
    object->at = skip_blanks(text.text, object->end);
    object->started = 0;
    if (object->at == object->end || *object->at != '{') {
        return syntax_error(source, object->at, "an object that starts with '{' was expected");
    }
    object->at++;
    return EPF_OK;
}

/* After '}': only blanks may follow. */
static epf_status finish(epf_json_object *object, epf_json_span *key)
{
    object->at = skip_blanks(object->at + 1, object->end);
    if (object->at != object->end) {
        return syntax_error(object->source, object->at, "something follows the object");
    }
    key->text = NULL;
    return EPF_OK;
}

epf_status epf_json_object_next(epf_json_object *object, epf_json_span *key, epf_json_span *value)
{
    const epf_json_source *source = object->source;
    const char *end = object->end;
    const char *at = skip_blanks(object->at, end);
    object->at = at;
    if (at < end && *at == '}') {
        return finish(object, key);
    }
    if (object->started) {
        if (at == end || *at != ',') {
            return syntax_error(source, at, "',' or '}' was expected");
        }
        at = skip_blanks(at + 1, end);
    }
    object->started = 1;
    if (at == end || *at != '"') {
        return syntax_error(source, at, "a key in double quotes was expected");
    }
    key->text = at;
    at = skip_string(at, end);
    if (at == NULL) {
        return syntax_error(source, key->text, "a key is not closed");
    }
    key->length = (size_t)(at - key->text);
    at = skip_blanks(at, end);
    if (at == end || *at != ':') {
        return syntax_error(source, at, "':' was expected");
    }
    at = skip_blanks(at + 1, end);
    if (at == end) {
        return syntax_error(source, at, "a value is missing");
    }
    value->text = at;
    EPF_TRY(skip_value(object, at, &object->at));
    value->length = (size_t)(object->at - value->text);
    return EPF_OK;
}

static epf_status load(const epf_json_source *source, epf_json_span span, json_t **value)
{
    json_error_t error;
    char reason[EPF_PRINTABLE_BYTES];
    *value = json_loadb(span.text, span.length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (*value != NULL) {
        return EPF_OK;
    }
    /* a parser that has no memory to begin with gives no code and no text */
    if (json_error_code(&error) == json_error_out_of_memory || error.text[0] == '\0') {
        return EPF_FAIL(EPF_E_NO_MEMORY, "%s: no memory for JSON at byte %llu", source->file,
                        (unsigned long long)epf_json_offset(source, span.text));
    }
    (void)epf_printable(error.text, strlen(error.text), reason);
    return syntax_error(source, span.text + (error.position > 0 ? error.position : 0), reason);
}

epf_status epf_json_load(const epf_json_source *source, epf_json_span span, size_t max_bytes,
                         json_t **value)
{
    if (span.length > max_bytes) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: JSON value of %zu bytes at byte %llu; at most %zu",
                        source->file, span.length,
                        (unsigned long long)epf_json_offset(source, span.text), max_bytes);
    }
    return load(source, span, value);
}

/* Quotes around plain ASCII without escapes: nothing to decode, nothing that could be wrong. */
static bool is_plain(epf_json_span span)
{
    if (span.length < 2 || span.text[0] != '"' || span.text[span.length - 1] != '"') {
        return false;
    }
    for (size_t i = 1; i < span.length - 1; i++) {
        const char c = span.text[i];
        if (c < ' ' || c > '~' || c == '\\' || c == '"') {
            return false;
        }
    }
    return true;
}

static epf_status load_string(const epf_json_source *source, epf_json_span span, json_t **value)
{
    if (span.length == 0 || span.text[0] != '"') {
        return syntax_error(source, span.text, "a string was expected");
    }
    EPF_TRY(load(source, span, value));
    if (!json_is_string(*value)) {
        json_decref(*value);
        return syntax_error(source, span.text, "a string was expected");
    }
    return EPF_OK;
}

epf_status epf_json_string(const epf_json_source *source, epf_json_span span,
                           char out[EPF_JSON_MAX_NAME + 1], size_t *length)
{
    json_t *value = NULL;
    const char *text = span.text + 1;
    *length = span.length - 2;
    if (!is_plain(span)) {
        EPF_TRY(load_string(source, span, &value));
        text = json_string_value(value);
        *length = json_string_length(value);
    }
    if (*length <= EPF_JSON_MAX_NAME) {
        memcpy(out, text, *length);
        out[*length] = '\0';
    }
    json_decref(value);
    if (*length > EPF_JSON_MAX_NAME) {
        return EPF_FAIL(EPF_E_FORMAT, "%s: string of %zu bytes at byte %llu; at most %d",
                        source->file, *length,
                        (unsigned long long)epf_json_offset(source, span.text), EPF_JSON_MAX_NAME);
    }
    return EPF_OK;
}

epf_status epf_json_check_string(const epf_json_source *source, epf_json_span span)
{
    json_t *value = NULL;
    if (!is_plain(span)) {
        EPF_TRY(load_string(source, span, &value));
        json_decref(value);
    }
    return EPF_OK;
}
