/*
 * test_hostile_safetensors: attacks on weights files, known ones of other loaders among them.  The header
 * begins at byte 8; the entry of "a" at byte 13.
 */
#include <stdlib.h>
#include <string.h>

#include "hostile.h"
#include "model/epf_safetensors.h"
#include "support/epf_check.h"

#define F EPF_E_FORMAT
#define A(dtype, shape, offsets) \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"
#define AB(a, b)                                                      \
    "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" a "}," \
    "\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" b "}}"
#define U8(offsets) "{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" offsets "}"

static epf_status read_bytes(const void *bytes, size_t num_bytes)
{
    epf_safetensors *file;
    const epf_status st = epf_safetensors_parse("f", bytes, num_bytes, &file);
    if (st == EPF_OK) {
        epf_safetensors_close(file);
    }
    return st;
}

/* "header|data": the true length before it, and the data behind it. */
static unsigned char *wrap(const unsigned char *text, size_t num_bytes, size_t *size)
{
    const unsigned char *const bar = memchr(text, '|', num_bytes);
    const uint64_t length = bar != NULL ? (uint64_t)(bar - text) : num_bytes;
    unsigned char *const file = malloc(num_bytes + 8);
    CHECK(file != NULL, "%zu bytes", num_bytes);
    memcpy(file, &length, 8);
    memcpy(file + 8, text, length);
    *size = 8 + length;
    if (bar != NULL) {
        memcpy(file + *size, bar + 1, num_bytes - length - 1);
        *size += num_bytes - length - 1;
    }
    return file;
}

static const hostile_case structure[] = {
    {"list of tensors", "[" U8("[0,4]") "]|abcd", "byte 8 does not start with '{'", F},
    {"byte order mark", "~xef~xbb~xbf{}", "byte 8 does not start with '{'", F},
    {"blank before", " {}", "byte 8 does not start with '{'", F},
    {"UTF-16", "{~x00}~x00", "invalid JSON at byte 9: a key in double quotes", F},
    {"cut after brace", "{", "invalid JSON at byte 9: a key", F},
    {"cut in key", "{\"abc", "invalid JSON at byte 9: a key is not closed", F},
    {"cut after colon", "{\"a\":", "invalid JSON at byte 13: a value is missing", F},
    {"cut in entry", "{\"a\":{\"dtype\":\"U8\",\"sha", "invalid JSON at byte 27: a string is not",
     F},
    {"cut before last brace", "{\"a\":" U8("[0,4]") "|abcd", "byte 60: ',' or '}' was expected", F},
    {"comma at the start", "{,\"a\":1}", "invalid JSON at byte 9: a key in double quotes", F},
    {"two commas", "{\"a\":" U8("[0,4]") ",,}|abcd", "byte 61: a key in double quotes", F},
    {"semicolon", "{\"a\":" U8("[0,4]") ";}|abcd", "byte 60: ',' or '}' was expected", F},
    {"comment", "{/**/}", "invalid JSON at byte 9: a key in double quotes", F},
    {"number as key", "{1:2}", "invalid JSON at byte 9: a key in double quotes", F},
    {"text behind", "{} {}", "invalid JSON at byte 11: something follows the object", F},
    {"NUL behind", "{}~x00", "invalid JSON at byte 10: something follows the object", F},
    {"closing braces", "{}~9{}}", "invalid JSON at byte 10: something follows the object", F},
    {"nested 65 deep", "{\"a\":~65{[}~65{]}}", "byte 77: nested more than 64 deep", F},
    {"nested a million deep", "{\"a\":~1000000{[}}", "byte 77: nested more than 64 deep", F},
    {"objects nested deep", "{\"a\":~5000{{\"a\":}1}", "nested more than 64 deep", F},
    {"entry of 2 MB", "{\"a\":{\"x\":\"~2000000{y}\"}}", "JSON value of 2000008 bytes at byte 13",
     F},
    {"name of 100 KB", "{\"~100000{n}\":" U8("[0,4]") "}|abcd", "string of 100000 bytes at byte 9",
     F},
};

static const hostile_case text[] = {
    {"NUL in a name", "{\"a~x00b\":" U8("[0,4]") "}|abcd", "invalid JSON at byte", F},
    {"escaped NUL in a name", "{\"a\\u0000b\":" U8("[0,4]") "}|abcd",
     "byte 19: \\u0000 is not allowed", F},
    {"control character", "{\"a~x01\":" U8("[0,4]") "}|abcd", "invalid JSON at byte", F},
    {"lone continuation byte", "{\"a~x80\":" U8("[0,4]") "}|abcd", "invalid JSON at byte", F},
    {"overlong UTF-8", "{\"~xc0~xaf\":" U8("[0,4]") "}|abcd", "invalid JSON at byte", F},
    {"cut UTF-8", "{\"~xe2~x82\":" U8("[0,4]") "}|abcd", "invalid JSON at byte", F},
    {"UTF-8 above 10ffff", "{\"~xf5~x80~x80~x80\":" U8("[0,4]") "}|abcd", "invalid JSON at byte",
     F},
    {"UTF-8 surrogate", "{\"~xed~xa0~x80\":" U8("[0,4]") "}|abcd", "invalid JSON at byte", F},
    {"lone escaped surrogate", "{\"\\ud800\":" U8("[0,4]") "}|abcd", "byte 17: invalid Unicode", F},
    {"bad escape", "{\"\\q\":" U8("[0,4]") "}|abcd", "invalid JSON at byte", F},
    {"escape cut", "{\"\\u12\":" U8("[0,4]") "}|abcd", "invalid JSON at byte", F},
    {"terminal escape in dtype", A("~x1b[31m", "[4]", "[0,4]") "|abcd", "invalid JSON at byte", F},
    {"format in dtype", A("%s%n", "[4]", "[0,4]") "|abcd", "byte 13: dtype '%s%n' is unknown", F},
    {"dtype of 1000 letters", A("~1000{F}", "[4]", "[0,4]") "|abcd", "byte 13: dtype 'FFFFFF", F},
};

static const hostile_case numbers[] = {
    {"dimension -1", A("U8", "[-1]", "[0,4]") "|abcd", "byte 13: shape[0] is no integer", F},
    {"dimension 4.0", A("U8", "[4.0]", "[0,4]") "|abcd", "byte 13: shape[0] is no integer", F},
    {"dimension 4e0", A("U8", "[4e0]", "[0,4]") "|abcd", "byte 13: shape[0] is no integer", F},
    {"dimension 1e400", A("U8", "[1e400]", "[0,4]") "|abcd", "invalid JSON at byte", F},
    {"dimension 04", A("U8", "[04]", "[0,4]") "|abcd", "invalid JSON at byte", F},
    {"dimension 0x4", A("U8", "[0x4]", "[0,4]") "|abcd", "invalid JSON at byte", F},
    {"dimension true", A("U8", "[true]", "[0,4]") "|abcd", "shape[0] is no integer", F},
    {"dimension null", A("U8", "[4,null]", "[0,4]") "|abcd", "shape[1] is no integer", F},
    {"dimension in a list", A("U8", "[[4]]", "[0,4]") "|abcd", "shape[0] is no integer", F},
    {"dimension 2^63", A("U8", "[9223372036854775808]", "[0,4]") "|abcd", "invalid JSON at byte",
     F},
    {"dimension of 5000 digits", A("U8", "[~5000{9}]", "[0,4]") "|abcd", "invalid JSON at byte", F},
    {"product 2^64 + 4", A("U8", "[4,4611686018427387905]", "[0,4]") "|abcd", "overflows 64 bit",
     F},
    {"product 2^64", A("U8", "[4294967296,4294967296]", "[0,0]"), "overflows 64 bit", F},
    {"zero hides an overflow", A("U8", "[4294967296,4294967296,0]", "[0,0]"), "overflows 64 bit",
     F},
    {"zero hides 2^64 - 2", A("U8", "[9223372036854775807,2,0]", "[0,0]"), "overflows 64 bit", F},
    {"bytes 2^64", A("F64", "[2305843009213693952]", "[0,0]"), "size in bits overflows 64 bit", F},
    {"1000 dimensions", A("U8", "[~999{1,}1]", "[0,1]") "|a", "shape has 1000 dimensions", F},
    {"shape is an object", A("U8", "{}", "[0,4]") "|abcd", "shape is missing or no array", F},
    {"shape is text", A("U8", "\"4\"", "[0,4]") "|abcd", "shape is missing or no array", F},
    {"half bytes", A("F4", "[7]", "[0,4]") "|abcd", "28 bits is no whole number of bytes", F},
};

static const hostile_case offsets[] = {
    {"end before begin", A("U8", "[4]", "[4,0]") "|abcd", "[4, 0] do not ascend from 0", F},
    {"begin -4", A("U8", "[4]", "[-4,0]") "|abcd", "[-4, 0] do not ascend from 0", F},
    {"begin INT64_MIN", A("U8", "[4]", "[-9223372036854775808,4]") "|abcd", "do not ascend", F},
    {"end beyond file", A("U8", "[5]", "[0,5]") "|abcd", "data_offsets end at 5 of 4 bytes", F},
    {"end 2^63 - 1", A("U8", "[4]", "[0,9223372036854775807]") "|abcd", "of 4 bytes of data", F},
    {"end 2^64", A("U8", "[4]", "[0,18446744073709551616]") "|abcd", "invalid JSON at byte", F},
    {"offsets with exponent", A("U8", "[4]", "[0,4e0]") "|abcd", "not two integers", F},
    {"offsets as text", A("U8", "[4]", "[\"0\",\"4\"]") "|abcd", "not two integers", F},
    {"offsets an object", A("U8", "[4]", "{\"0\":4}") "|abcd", "not two integers", F},
    {"no offsets", A("U8", "[4]", "[]") "|abcd", "not two integers", F},
    {"three offsets", A("U8", "[4]", "[0,2,4]") "|abcd", "not two integers", F},
    {"span too small", A("F32", "[2]", "[0,4]") "|abcd", "span 4 bytes, but shape and dtype need 8",
     F},
    {"span too large", A("U8", "[2]", "[0,4]") "|abcd", "span 4 bytes, but shape and dtype need 2",
     F},
    {"same bytes twice", AB("[0,4]", "[0,4]") "|abcd", "inside the tensor that ends at 4", F},
    {"overlap by one", AB("[0,4]", "[3,7]") "|abcdefg", "begin at 3, inside the tensor", F},
    {"overlap, listed last first", AB("[3,7]", "[0,4]") "|abcdefg",
     "tensor 'a' at byte 13: its data", F},
    {"one inside the other",
     "{\"a\":" U8(
         "[2,6]") ",\"b\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}|abcdefgh",
     "begin at 2, inside the tensor", F},
    {"hole at the start", A("U8", "[4]", "[1,5]") "|abcde", "after a hole that starts at 0", F},
    {"hole in the middle", AB("[0,4]", "[5,9]") "|abcdefghi", "after a hole that starts at 4", F},
    {"one trailing byte", A("U8", "[4]", "[0,4]") "|abcde",
     "1 bytes follow the last tensor's data, at byte", F},
    {"a file behind the file", "{}|PK~x03~x04hidden",
     "10 bytes follow the last tensor's data, at byte 10", F},
    {"empty tensor in another", AB("[0,4]", "[2,2]") "|abcd", "tensor 'b'", F},
};

static const hostile_case names[] = {
    {"name twice", "{\"a\":" U8("[0,4]") ",\"a\":" U8("[4,8]") "}|abcdefgh",
     "the name appears twice", F},
    {"name twice, once escaped", "{\"a\":" U8("[0,4]") ",\"\\u0061\":" U8("[4,8]") "}|abcdefgh",
     "tensor 'a' at byte 70: the name appears twice", F},
    {"dtype twice",
     "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,4]}}|abcd",
     "duplicate object key", F},
    {"shape twice",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"shape\":[4],\"data_offsets\":[0,4]}}|abcd",
     "duplicate object key", F},
    {"metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}",
     "__metadata__ appears twice, at byte 27", F},
    {"metadata key twice", "{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}",
     "a key of __metadata__ appears twice, at byte", F},
    {"metadata number", "{\"__metadata__\":{\"k\":1}}", "byte 29: a string was expected", F},
    {"metadata nested", "{\"__metadata__\":{\"k\":{\"k\":\"v\"}}}", "a string was expected", F},
    {"metadata list", "{\"__metadata__\":[]}", "byte 24: an object that starts with '{'", F},
    {"metadata is a tensor", "{\"__metadata__\":" U8("[0,4]") "}|abcd", "a string was expected", F},
    {"dtype missing", "{\"a\":{\"shape\":[4],\"data_offsets\":[0,4]}}|abcd",
     "byte 13: dtype is missing", F},
    {"dtype list", "{\"a\":{\"dtype\":[\"U8\"],\"shape\":[4],\"data_offsets\":[0,4]}}|abcd",
     "dtype is missing", F},
    {"dtype of another kind", A("float32", "[1]", "[0,4]") "|abcd", "dtype 'float32' is unknown",
     F},
    {"dtype lower case", A("f32", "[1]", "[0,4]") "|abcd", "dtype 'f32' is unknown", F},
    {"entry null", "{\"a\":null}", "byte 13: is no JSON object", F},
};

/* The eight bytes of length, and what lies behind them. */
static const hostile_case lengths[] = {
    {"empty file", "", "0 bytes; a safetensors file has at least 8", F},
    {"seven bytes", "~7{a}", "7 bytes; a safetensors file has at least 8", F},
    {"length 0", "~x00~x00~x00~x00~x00~x00~x00~x00", "does not start with '{'", F},
    {"length one too long", "~x03~x00~x00~x00~x00~x00~x00~x00{}",
     "length 3 at byte 0, but only 2 bytes", F},
    {"length one too short", "~x01~x00~x00~x00~x00~x00~x00~x00{}", "invalid JSON at byte 9", F},
    {"length 2^64 - 1", "~xff~xff~xff~xff~xff~xff~xff~xff{}",
     "header length 18446744073709551615 at byte 0; at most", F},
    {"length 2^63", "~x00~x00~x00~x00~x00~x00~x00~x80{}", "header length 9223372036854775808", F},
    {"length 100 MB in a small file", "~x00~xe1~xf5~x05~x00~x00~x00~x00{}",
     "but only 2 bytes follow", F},
    {"length 100 MB + 1", "~x01~xe1~xf5~x05~x00~x00~x00~x00{}",
     "header length 100000001 at byte 0; at most", F},
    {"big endian length", "~x00~x00~x00~x00~x00~x00~x00~x02{}", "header length 144115188075855872",
     F},
    {"a pickle", "~x80~x02}q~x00(X~x01~x00~x00~x00a", "header length", F},
    {"a zip", "PK~x03~x04~x14~x00~x00~x00~x00~x00", "header length", F},
};

/* What a whole header of 100 MB says: blanks, and one of keys without end. */
static void check_huge(const hostile_suite *suite)
{
    static const hostile_case blanks = {"100 MB of blanks", "", "byte 100000008: a key in double",
                                        F};
    static const hostile_case keys = {"100 MB of one key", "", "byte 9: a key is not closed", F};
    const uint64_t length = 100000000;
    unsigned char *const file = malloc(length + 8);
    CHECK(file != NULL, "100 MB");
    memcpy(file, &length, 8);
    memset(file + 8, ' ', length);
    file[8] = '{';
    hostile_check(suite, &blanks, file, length + 8);
    memset(file + 9, 'k', length - 1);
    file[9] = '"';
    hostile_check(suite, &keys, file, length + 8);
    free(file);
}

int main(void)
{
    const hostile_suite wrapped = {"safetensors", read_bytes, 2, 8192, wrap};
    hostile_suite raw = wrapped;
    raw.wrap = NULL;
#define RUN(suite, cases) hostile_run(&(suite), cases, sizeof(cases) / sizeof *(cases))
    RUN(wrapped, structure);
    RUN(wrapped, text);
    RUN(wrapped, numbers);
    RUN(wrapped, offsets);
    RUN(wrapped, names);
    RUN(raw, lengths);
    check_huge(&raw);
    return hostile_end(&raw, 107);
}
