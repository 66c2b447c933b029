/*
 * test_hostile_trace: attacks on Perfetto traces.
 *
 * The files are written as nested fields: 1(...) is field 1 with a message, 1=5 with a number, 1"x" with text,
 * 1:05 with eight bytes of which the first is 5, and #0a is one raw byte.  Field numbers: prof/epf_perfetto.h.
 */
#include <stdlib.h>
#include <string.h>

#include "hostile.h"
#include "prof/epf_proto.h"
#include "prof/epf_trace.h"
#include "support/epf_check.h"

#define F EPF_E_FORMAT
/* Rank 0 with its host's lane, on packet sequence 1 with names of one of each kind. */
#define RANK "1(60(1=65536))"
#define LANE "1(60(1=65537))"
#define NAMES "1(10=1 13=1 12(1(1=1 2\"compute\")2(1=1 2\"x\")3(1=1 2\"task\")))"
#define HEAD RANK LANE NAMES
#define BEGIN(time) "1(8=" time " 10=1 11(3=1 9=1 10=1 11=65537))"
#define END(time) "1(8=" time " 10=1 11(9=2 11=65537))"

static epf_status read_bytes(const void *bytes, size_t num_bytes)
{
    epf_trace *trace;
    const epf_status st = epf_trace_parse(bytes, num_bytes, "f", &trace);
    epf_trace_destroy(trace);
    return st;
}

static const char *put_fields(epf_proto_out *out, const char *at);

static const char *put_field(epf_proto_out *out, const char *at)
{
    char *end;
    char text[256];
    size_t open;
    const uint32_t field = (uint32_t)strtoul(at, &end, 10);
    switch (*end) {
    case '(':
        open = epf_proto_open(out, field);
        at = put_fields(out, end + 1);
        CHECK(*at == ')', "no ')' at %s", at);
        epf_proto_close(out, open);
        return at + 1;
    case '=':
        epf_proto_put_varint(out, field, strtoull(end + 1, &end, 10));
        return end;
    case ':':
        epf_proto_put_fixed64(out, field, strtoull(end + 1, &end, 10));
        return end;
    default:
        CHECK(*end == '"' && strcspn(end + 1, "\"") < sizeof text, "no field at %s", at);
        memcpy(text, end + 1, strcspn(end + 1, "\""));
        text[strcspn(end + 1, "\"")] = '\0';
        epf_proto_put_string(out, field, text);
        return end + 2 + strlen(text);
    }
}

static const char *put_fields(epf_proto_out *out, const char *at)
{
    while (*at != '\0' && *at != ')') {
        if (*at == ' ') {
            at++;
        } else if (*at == '#') {
            const char digits[3] = {at[1], at[2], '\0'};
            CHECK(out->size < out->capacity, "room");
            out->data[out->size++] = (uint8_t)strtoul(digits, NULL, 16);
            at += 3;
        } else {
            at = put_field(out, at);
        }
    }
    return at;
}

static unsigned char *wrap(const unsigned char *text, size_t num_bytes, size_t *size)
{
    const size_t room = 4 * num_bytes + 64;
    unsigned char *const file = malloc(room);
    char *const source = calloc(1, num_bytes + 1);
    epf_proto_out out = {.data = file, .capacity = room};
    CHECK(file != NULL && source != NULL, "memory");
    memcpy(source, text, num_bytes);
    CHECK(*put_fields(&out, source) == '\0' && !out.overflow, "in %s", source);
    free(source);
    *size = out.size;
    return file;
}

static const hostile_case cases[] = {
    {"empty file", "", "byte 0: the file ends before any rank was described", F},
    {"only blanks", "#20#20", "byte 2: before it stands no trace packet", F},
    {"gzip", "#1f#8b#08", "byte 0: not a protobuf field", F},
    {"field 0", "#00#00", "byte 0: not a protobuf field", F},
    {"field 2^29", "#80#80#80#80#10", "byte 0: not a protobuf field", F},
    {"group", "#0b#0c", "byte 0: not a protobuf field", F},
    {"wire type 7", "#0f", "byte 0: not a protobuf field", F},
    {"tag of 11 bytes", "#ff#ff#ff#ff#ff#ff#ff#ff#ff#ff#01", "byte 0: not a protobuf field", F},
    {"length beyond file", "#0a#7f#08", "byte 1: not a protobuf field", F},
    {"length 2^64 - 1", "#0a#ff#ff#ff#ff#ff#ff#ff#ff#ff#01", "byte 1: not a protobuf field", F},
    {"length cut", "#0a#80", "byte 1: not a protobuf field", F},
    {"packet as number", "1=5", "before it stands no trace packet", F},
    {"other root field", "2(1=1)", "before it stands no trace packet", F},
    {"garbage in a packet", "1(#ff)", "byte 2: not a protobuf field", F},
    {"inner length beyond packet", "1(#e2#03#7f)" RANK, "byte 4: not a protobuf field", F},
    {"inner length reaches next packet", "1(#e2#03#05)" RANK, "byte 4: not a protobuf field", F},
    {"fixed64 cut", "1(#41#00)", "byte 3: not a protobuf field", F},
    {"only clocks", "1(6(1(1=3 2=5)))", "the file ends before any rank", F},
    {"clock garbage", "1(6(1(#ff)))", "byte 6: not a protobuf field", F},
    {"rank 2^47", "1(60(1=9223372036854775808))", "a track that is no rank's and no worker's", F},
    {"track below rank 0", "1(60(1=5))", "a track that is no rank's and no worker's", F},
    {"worker 65535", RANK "1(60(1=131071))", "a track that is no rank's and no worker's", F},
    {"rank twice", RANK RANK, "byte 14: a rank is described twice", F},
    {"worker twice", RANK LANE LANE, "byte 23: a worker is described twice", F},
    {"worker before rank", LANE, "byte 5: a worker of a rank that was not described", F},
    {"worker of another rank", RANK "1(60(1=131073))", "a worker of a rank that was not described",
     F},
    {"process garbage", "1(60(1=65536 3(#ff)))", "not a protobuf field", F},
    {"category 2 first", "1(12(1(1=2 2\"compute\")))", "interned names must be numbered 1, 2, ...",
     F},
    {"category 0", "1(12(1(1=0 2\"compute\")))", "interned names must be numbered 1, 2, ...", F},
    {"category unknown", "1(12(1(1=1 2\"chaos\")))", "byte 10: unknown category", F},
    {"annotation unknown", "1(12(3(1=1 2\"chaos\")))", "byte 10: unknown annotation", F},
    {"event name empty", "1(12(2(1=1 2\"\")))", "an event's name must be 1 .. 63 printable", F},
    {"event name of 64", "1(12(2(1=1 2\"~64{e}\")))", "an event's name must be 1 .. 63 printable",
     F},
    {"event name with escape code", "1(12(2(1=1 2\"~x1b[2J\")))",
     "an event's name must be 1 .. 63 printable", F},
    {"event name not UTF-8", "1(12(2(1=1 2\"~xff\")))", "an event's name must be 1 .. 63 printable",
     F},
    {"event without anything", HEAD "1(11())", "an event on a track that was not described", F},
    {"event on an unknown track", HEAD "1(8=5 10=1 11(9=1 11=65538))",
     "an event on a track that was not described", F},
    {"event of another sequence", HEAD "1(8=5 10=2 11(3=1 9=1 10=1 11=65537))",
     "outside of its rank's packet sequence", F},
    {"event without time", HEAD "1(10=1 11(3=1 9=1 10=1 11=65537))", "an event without a time", F},
    {"time 2^63", HEAD BEGIN("9223372036854775808"), "an event without a time, or before", F},
    {"time goes back", HEAD BEGIN("9") END("8"),
     "an event without a time, or before the one before it", F},
    {"end without begin", HEAD END("5"), "a slice ends that did not begin", F},
    {"two ends", HEAD BEGIN("5") END("6") END("7"), "a slice ends that did not begin", F},
    {"begin without end", HEAD BEGIN("5"), "the file ends inside a slice", F},
    {"nested 100 deep", HEAD "~100{" BEGIN("5") "}", "slices nested too deep", F},
    {"neither begin nor end", HEAD "1(8=5 10=1 11(9=3 11=65537))",
     "neither begins nor ends a slice", F},
    {"name not interned", HEAD "1(8=5 10=1 11(3=1 9=1 10=2 11=65537))",
     "name or category was never interned", F},
    {"category not interned", HEAD "1(8=5 10=1 11(3=9 9=1 10=1 11=65537))",
     "name or category was never interned", F},
    {"annotation not interned", HEAD "1(8=5 10=1 11(3=1 9=1 10=1 11=65537 4(1=2 4=5)))",
     "an annotation without a known name", F},
    {"annotation of 64 bits", HEAD "1(8=5 10=1 11(3=1 9=1 10=1 11=65537 4(1=1 4=4294967296)))",
     "and a 32-bit value", F},
    {"flows by number", HEAD "1(8=5 10=1 11(3=1 9=1 10=1 11=65537 #f9#02#01))",
     "not a protobuf field", F},
};

int main(void)
{
    /* A lane's stack of open slices and the parser's tables stand for a few bytes of input each. */
    static const hostile_suite suite = {"trace", read_bytes, 64, 65536, wrap};
    hostile_run(&suite, cases, sizeof cases / sizeof *cases);
    return hostile_end(&suite, 50);
}
