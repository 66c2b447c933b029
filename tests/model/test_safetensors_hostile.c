/*
 * test_safetensors_hostile: every way a header can lie is refused with its own reason, and the byte
 * at which it lies is named.  The header begins at byte 8 of the file.
 */
#include "model/epf_safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model_kit.h"

#define ONE(dtype, shape, offsets) \
    "{\"a\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define TWO(first, second)                                                \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" first "}," \
    "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" second "}}"
#define GOOD "{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}"

typedef struct hostile {
    const char *name;
    const char *header;
    uint64_t data_bytes;
    const char *part; /* of the message */
} hostile;

static const hostile cases[] = {
    {"no brace", " {}", 0, "the header at byte 8 does not start with '{'"},
    {"empty header", "", 0, "the header at byte 8 does not start with '{'"},
    {"array", "[]", 0, "the header at byte 8 does not start with '{'"},
    {"never closed", "{", 0, "invalid JSON at byte 9: a key in double quotes was expected"},
    {"only quote", "{\"", 0, "invalid JSON at byte 9: a key is not closed"},
    {"escape at the end", "{\"a\\", 0, "invalid JSON at byte 9: a key is not closed"},
    {"key without value", "{\"a\"}", 0, "invalid JSON at byte 12: ':' was expected"},
    {"value missing at end", "{\"a\":", 0, "invalid JSON at byte 13: a value is missing"},
    {"value missing", "{\"a\":}", 0, "invalid JSON at byte 13: a value is missing"},
    {"key without quotes", "{a:1}", 0, "invalid JSON at byte 9: a key in double quotes"},
    {"single quotes", "{'a':1}", 0, "invalid JSON at byte 9: a key in double quotes"},
    {"trailing comma", "{\"a\":" GOOD ",}", 4, "invalid JSON at byte 61: a key in double quotes"},
    {"no comma", "{\"a\":" GOOD "\"b\":1}", 4, "invalid JSON at byte 60: ',' or '}' was expected"},
    {"tail", "{\"a\":" GOOD "}x", 4, "invalid JSON at byte 61: something follows the object"},
    {"second object", "{}{}", 0, "invalid JSON at byte 10: something follows the object"},
    {"NUL padding", "{}", 1, "1 bytes follow the last tensor's data, at byte 10"},
    {"value never closed", "{\"a\":{\"dtype\":\"U8\"", 0,
     "invalid JSON at byte 13: an object or array is not closed"},
    {"string never closed", "{\"a\":{\"dtype\":\"U8", 0,
     "invalid JSON at byte 22: a string is not closed"},
    {"brackets crossed", "{\"a\":{\"shape\":[}]}", 0, "invalid JSON at byte"},
    {"number as entry", "{\"a\":7}", 0, "tensor 'a' at byte 13: is no JSON object"},
    {"string as entry", "{\"a\":\"F32\"}", 0, "tensor 'a' at byte 13: is no JSON object"},
    {"null entry", "{\"a\":null}", 0, "tensor 'a' at byte 13: is no JSON object"},
    {"array as entry", "{\"a\":[\"U8\",[4],[0,4]]}", 4, "tensor 'a' at byte 13: is no JSON object"},
    {"bare word", "{\"a\":F32}", 0, "invalid JSON at byte 1"},
    {"NaN", "{\"a\":NaN}", 0, "invalid JSON at byte 1"},
    {"empty entry", "{\"a\":{}}", 0, "tensor 'a' at byte 13: dtype is missing"},
    {"dtype is a number", ONE("4", "[4]", "[0,4]"), 4,
     "tensor 'a' at byte 13: dtype is missing or"},
    {"dtype unknown", ONE("\"F128\"", "[4]", "[0,4]"), 4, "at byte 13: dtype 'F128' is unknown"},
    {"dtype lower case", ONE("\"bf16\"", "[4]", "[0,8]"), 8, "dtype 'bf16' is unknown"},
    {"dtype empty", ONE("\"\"", "[4]", "[0,4]"), 4, "dtype '' is unknown"},
    {"dtype with line end", ONE("\"F\\n3\"", "[4]", "[0,4]"), 4, "dtype 'F?3' is unknown"},
    {"no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", 4,
     "tensor 'a' at byte 13: shape is missing or no array"},
    {"shape is a number", ONE("\"U8\"", "4", "[0,4]"), 4, "shape is missing or no array"},
    {"negative dimension", ONE("\"U8\"", "[-4]", "[0,4]"), 4,
     "shape[0] is no integer in 0 .. 2^63"},
    {"real dimension", ONE("\"U8\"", "[4.0]", "[0,4]"), 4, "shape[0] is no integer"},
    {"text dimension", ONE("\"U8\"", "[2,\"2\"]", "[0,4]"), 4, "shape[1] is no integer"},
    {"nine dimensions", ONE("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1,
     "tensor 'a' at byte 13: shape has 9 dimensions; at most 8"},
    {"product overflows", ONE("\"U8\"", "[4294967296,4294967296]", "[0,4]"), 4,
     "the product of its shape overflows 64 bit"},
    {"product overflows before a zero", ONE("\"U8\"", "[9223372036854775807,3,0]", "[0,0]"), 0,
     "the product of its shape overflows 64 bit"},
    {"bits overflow", ONE("\"F64\"", "[1152921504606846976]", "[0,0]"), 0,
     "its size in bits overflows 64 bit"},
    {"above 2^63", ONE("\"U8\"", "[9223372036854775808]", "[0,4]"), 4, "invalid JSON at byte"},
    {"wraps to fit", ONE("\"F32\"", "[4611686018427387905]", "[0,4]"), 4, "overflows 64 bit"},
    {"half a byte", ONE("\"F4\"", "[3]", "[0,2]"), 2, "12 bits is no whole number of bytes"},
    {"no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", 4,
     "tensor 'a' at byte 13: data_offsets is missing or not two integers"},
    {"one offset", ONE("\"U8\"", "[4]", "[4]"), 4, "data_offsets is missing or not two integers"},
    {"three offsets", ONE("\"U8\"", "[4]", "[0,4,4]"), 4, "not two integers"},
    {"real offset", ONE("\"U8\"", "[4]", "[0,4.5]"), 4, "not two integers"},
    {"negative offset", ONE("\"U8\"", "[4]", "[-4,0]"), 4, "[-4, 0] do not ascend from 0"},
    {"descending offsets", ONE("\"U8\"", "[4]", "[4,0]"), 4, "[4, 0] do not ascend from 0"},
    {"offset past the end", ONE("\"U8\"", "[5]", "[0,5]"), 4,
     "tensor 'a' at byte 13: data_offsets end at 5 of 4 bytes of data"},
    {"offset near 2^63", ONE("\"U8\"", "[4]", "[9223372036854775803,9223372036854775807]"), 4,
     "data_offsets end at 9223372036854775807 of 4 bytes"},
    {"size too small", ONE("\"F32\"", "[2]", "[0,4]"), 4,
     "data_offsets span 4 bytes, but shape and dtype need 8"},
    {"size too large", ONE("\"F16\"", "[1]", "[0,4]"), 4,
     "span 4 bytes, but shape and dtype need 2"},
    {"scalar of no bytes", ONE("\"U8\"", "[]", "[0,0]"), 0,
     "span 0 bytes, but shape and dtype need 1"},
    {"overlap", TWO("[0,4]", "[2,6]"), 6,
     "tensor 'b' at byte 65: its data begin at 2, inside the tensor that ends at 4"},
    {"same data twice", TWO("[0,4]", "[0,4]"), 4,
     "tensor 'b' at byte 65: its data begin at 0, inside the tensor that ends at 4"},
    {"hole", TWO("[0,4]", "[5,9]"), 9,
     "tensor 'b' at byte 65: its data begin at 5, after a hole that starts at 4"},
    {"hole in front", ONE("\"U8\"", "[4]", "[1,5]"), 5,
     "tensor 'a' at byte 13: its data begin at 1, after a hole that starts at 0"},
    {"trailing bytes", ONE("\"U8\"", "[4]", "[0,4]"), 7,
     "3 bytes follow the last tensor's data, at byte 65"},
    {"same name twice",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
     8, "tensor 'a' at byte 65: the name appears twice"},
    {"same name twice, escaped",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
     "\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,8]}}",
     8, "tensor 'a' at byte 70: the name appears twice"},
    {"member twice",
     "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[4],"
     "\"data_offsets\":[0,4]}}",
     4, "invalid JSON at byte"},
    {"name with NUL", "{\"a\\u0000b\":" GOOD "}", 4, "invalid JSON at byte"},
    {"name is bad UTF-8", "{\"\xff\":" GOOD "}", 4, "invalid JSON at byte"},
    {"name is half a surrogate", "{\"\\ud800\":" GOOD "}", 4, "invalid JSON at byte"},
    {"name with raw line end", "{\"a\nb\":" GOOD "}", 4, "invalid JSON at byte"},
    {"name prints on one line", "{\"a\\nb\":{}}", 4, "tensor 'a?b' at byte 16: dtype is missing"},
    {"metadata is an array", "{\"__metadata__\":[]}", 0, "invalid JSON at byte 24: an object"},
    {"metadata value is a number", "{\"__metadata__\":{\"k\":1}}", 0,
     "invalid JSON at byte 29: a string was expected"},
    {"metadata value is bad UTF-8", "{\"__metadata__\":{\"k\":\"\xc3\"}}", 0,
     "invalid JSON at byte"},
    {"metadata key twice", "{\"__metadata__\":{\"k\\\"\":\"1\",\"k\":\"3\",\"k\\\"\":\"2\"}}", 0,
     "a key of __metadata__ appears twice, at byte"},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0,
     "__metadata__ appears twice, at byte 27"},
};

static void refuse(const char *name, kit_bytes file, const char *part)
{
    epf_safetensors *opened = NULL;
    kit_expect(name, epf_safetensors_parse("f.safetensors", file.bytes, file.num_bytes, &opened),
               EPF_E_FORMAT, part);
    CHECK(opened == NULL, "%s: output written on failure", name);
    CHECK(strncmp(epf_check_library_text(), "f.safetensors: ", 15) == 0, "%s: no file named: %s",
          name, epf_check_library_text());
    kit_free(&file);
}

/* The length field lies about a file that is otherwise fine. */
static void refuse_length(uint64_t length, const char *part)
{
    kit_bytes file = kit_safetensors("{}", 0);
    memcpy(file.bytes, &length, sizeof length);
    refuse("header length", file, part);
}

static void refuse_lengths(void)
{
    for (uint64_t bytes = 0; bytes < 8; bytes++) {
        kit_bytes file = kit_safetensors("", 0);
        file.num_bytes = bytes;
        refuse("short file", file, "bytes; a safetensors file has at least 8");
    }
    refuse_length(3, "header length 3 at byte 0, but only 2 bytes follow it");
    refuse_length(100000000, "header length 100000000 at byte 0, but only 2 bytes follow it");
    refuse_length(100000001, "header length 100000001 at byte 0; at most 100000000");
    refuse_length(UINT64_MAX, "header length 18446744073709551615 at byte 0; at most 100000000");
    refuse_length(UINT64_MAX - 7, "at byte 0; at most 100000000");
    refuse_length(0, "the header at byte 8 does not start with '{'");
    refuse_length(1, "invalid JSON at byte 9: a key in double quotes was expected");
}

/* Text too long for a string literal: `count` times `piece` between head and tail. */
static char *repeat(const char *head, const char *piece, size_t count, const char *tail)
{
    const size_t size = strlen(head) + count * strlen(piece) + strlen(tail) + 1;
    char *text = epf_test_alloc(size, 1);
    char *at = text + sprintf(text, "%s", head);
    for (size_t i = 0; i < count; i++) {
        memcpy(at, piece, strlen(piece));
        at += strlen(piece);
    }
    memcpy(at, tail, strlen(tail));
    return text;
}

static void refuse_repeated(const char *head, const char *piece, size_t count, const char *tail,
                            const char *part)
{
    char *text = repeat(head, piece, count, tail);
    refuse(head, kit_safetensors(text, 0), part);
    free(text);
}

static void refuse_long_ones(void)
{
    refuse_repeated("{\"a\":", "[", 100000, "", "nested more than 64 deep");
    refuse_repeated("{\"a\":", "{\"b\":", 100000, "", "nested more than 64 deep");
    refuse_repeated("{\"", "n", 4097, "\":{}}", "string of 4097 bytes at byte 9; at most 4096");
    refuse_repeated("{\"a\":{\"shape\":[0", ",0", 40000, "]}}",
                    "JSON value of 80013 bytes at byte 13; at most 65536");
    refuse_repeated("{\"a\":{\"dtype\":\"U8\",\"shape\":[1", ",1", 20000,
                    "],\"data_offsets\":[0,1]}}", "shape has 20001 dimensions; at most 8");
    refuse_repeated("{\"", "n", 4096, "\":{}}", "nnn...' at byte 4108: dtype is missing");
}

/* A file cut anywhere is refused; so is one with a byte more. */
static void refuse_every_cut(void)
{
    const kit_bytes whole = kit_safetensors(TWO("[0,4]", "[4,8]") "  ", 8);
    for (uint64_t bytes = 0; bytes < whole.num_bytes; bytes++) {
        kit_bytes cut = {epf_test_alloc((size_t)bytes + 1, 1), bytes};
        memcpy(cut.bytes, whole.bytes, (size_t)bytes);
        refuse("cut file", cut, "f.safetensors: ");
    }
    kit_free((kit_bytes *)&whole);
}

int main(void)
{
    const size_t count = sizeof cases / sizeof cases[0];
    for (size_t i = 0; i < count; i++) {
        refuse(cases[i].name, kit_safetensors(cases[i].header, cases[i].data_bytes), cases[i].part);
    }
    refuse_lengths();
    refuse_long_ones();
    refuse_every_cut();
    printf("%zu hostile headers refused\n", count + 21);
    return 0;
}
