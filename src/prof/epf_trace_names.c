/* epf_trace_names.c: interned names of a trace file. */
#include <string.h>

#include "base/epf_error.h"
#include "prof/epf_perfetto.h"
#include "prof/epf_trace_parse.h"

epf_status epf_parse_malformed(const epf_parser *p, const epf_proto_in *where, const char *what)
{
    return EPF_FAIL(EPF_E_FORMAT, "%s: byte %llu: %s", p->source,
                    (unsigned long long)epf_proto_offset(where), what);
}

epf_status epf_parse_end(const epf_parser *p, const epf_proto_in *in)
{
    return in->bad ? epf_parse_malformed(p, in, "not a protobuf field") : EPF_OK;
}

void epf_parse_forget_names(epf_parser *p, uint64_t sequence)
{
    p->names.sequence = sequence;
    p->names.num_categories = p->names.num_events = p->names.num_notes = 0;
}

static bool same_text(const epf_proto_in *bytes, const char *text)
{
    const size_t size = (size_t)(bytes->end - bytes->at);
    return size == strlen(text) && memcmp(bytes->at, text, size) == 0;
}

/* The number of `text` in a list of names, or -1. */
static int number_of(const epf_proto_in *text, const char *const *list, int count)
{
    for (int i = 0; i < count; i++) {
        if (same_text(text, list[i])) {
            return i;
        }
    }
    return -1;
}

/* Reads one interned name, which must have the id that follows the last one. */
static epf_status read_name(const epf_parser *p, const epf_proto_field *entry, uint32_t count,
                            epf_proto_in *text)
{
    epf_proto_in in = entry->bytes;
    epf_proto_field field;
    uint64_t iid = 0;
    *text = (epf_proto_in){in.base, in.at, in.at, false};
    while (epf_proto_next(&in, &field)) {
        if (field.number == PF_NAME_IID && field.wire == EPF_PROTO_VARINT) {
            iid = field.value;
        } else if (field.number == PF_NAME_TEXT && field.wire == EPF_PROTO_BYTES) {
            *text = field.bytes;
        }
    }
    EPF_TRY(epf_parse_end(p, &in));
    if (iid != (uint64_t)count + 1 || count == EPF_PARSE_MAX_IIDS) {
        return epf_parse_malformed(p, &entry->bytes, "interned names must be numbered 1, 2, ...");
    }
    return EPF_OK;
}

static epf_status add_category(epf_parser *p, const epf_proto_field *entry)
{
    epf_proto_in text;
    int number;
    EPF_TRY(read_name(p, entry, p->names.num_categories, &text));
    number = number_of(&text, epf_prof_category_names, EPF_PROF_NUM_CATEGORIES);
    if (number < 0) {
        return epf_parse_malformed(p, &text, "unknown category");
    }
    p->names.categories[p->names.num_categories++] = (uint32_t)number;
    return EPF_OK;
}

static epf_status add_note(epf_parser *p, const epf_proto_field *entry)
{
    epf_proto_in text;
    int number;
    EPF_TRY(read_name(p, entry, p->names.num_notes, &text));
    number = number_of(&text, epf_trace_note_names, EPF_TRACE_NUM_NOTES);
    if (number < 0) {
        return epf_parse_malformed(p, &text, "unknown annotation");
    }
    p->names.notes[p->names.num_notes++] = (uint32_t)number;
    return EPF_OK;
}

static bool printable(const epf_proto_in *text)
{
    for (const uint8_t *at = text->at; at < text->end; at++) {
        if (*at < 0x20 || *at > 0x7e) {
            return false;
        }
    }
    return text->at < text->end && text->end - text->at < EPF_TRACE_NAME_BYTES;
}

static epf_status add_event_name(epf_parser *p, const epf_proto_field *entry)
{
    epf_proto_in text;
    char *name;
    EPF_TRY(read_name(p, entry, p->names.num_events, &text));
    if (!printable(&text)) {
        return epf_parse_malformed(p, &text,
                                   "an event's name must be 1 .. 63 printable characters");
    }
    p->names.resolved[p->names.num_events] = 0;
    name = p->names.events[p->names.num_events++];
    memset(name, 0, EPF_TRACE_NAME_BYTES);
    memcpy(name, text.at, (size_t)(text.end - text.at));
    return EPF_OK;
}

epf_status epf_parse_interned(epf_parser *p, epf_proto_in in)
{
    epf_proto_field field;
    while (epf_proto_next(&in, &field)) {
        if (field.wire == EPF_PROTO_BYTES) {
            if (field.number == PF_INTERNED_CATEGORIES) {
                EPF_TRY(add_category(p, &field));
            } else if (field.number == PF_INTERNED_EVENT_NAMES) {
                EPF_TRY(add_event_name(p, &field));
            } else if (field.number == PF_INTERNED_ANNOTATION_NAMES) {
                EPF_TRY(add_note(p, &field));
            }
        }
    }
    return epf_parse_end(p, &in);
}

epf_status epf_parse_event_idx(epf_parser *p, const epf_proto_in *where, uint64_t name_iid,
                               uint64_t category_iid, uint32_t *event)
{
    epf_parse_names *const n = &p->names;
    uint32_t category, i;
    if (name_iid == 0 || name_iid > n->num_events || category_iid == 0 ||
        category_iid > n->num_categories) {
        return epf_parse_malformed(p, where, "an event's name or category was never interned");
    }
    category = n->categories[category_iid - 1];
    i = n->resolved[name_iid - 1];
    if (i == 0 || p->events[i - 1].category != category) {
        for (i = 1; i <= p->num_events; i++) {
            if (p->events[i - 1].category == category &&
                strcmp(p->events[i - 1].name, n->events[name_iid - 1]) == 0) {
                break;
            }
        }
        if (i > EPF_TRACE_MAX_EVENTS) {
            return epf_parse_malformed(p, where, "more different events than a trace may have");
        }
        if (i > p->num_events) {
            memcpy(p->events[p->num_events].name, n->events[name_iid - 1], EPF_TRACE_NAME_BYTES);
            p->events[p->num_events++].category = category;
        }
        n->resolved[name_iid - 1] = i;
    }
    *event = i - 1;
    return EPF_OK;
}
