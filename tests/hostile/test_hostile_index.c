/* test_hostile_index: attacks on model.safetensors.index.json and on what it leads to. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hostile.h"
#include "model/epf_checkpoint.h"
#include "support/epf_check.h"

#define F EPF_E_FORMAT
#define MAP(pairs) "{\"weight_map\":{" pairs "}}"
#define SHARD(name) MAP("\"a\":\"" name "\"")

static epf_status read_bytes(const void *bytes, size_t num_bytes)
{
    int32_t num_shards;
    return epf_checkpoint_check_index("f", bytes, num_bytes, &num_shards);
}

static const hostile_case cases[] = {
    {"empty file", "", "byte 0: an object that starts with '{' was expected", F},
    {"list", "[]", "byte 0: an object that starts with '{' was expected", F},
    {"text", "\"weight_map\"", "byte 0: an object", F},
    {"no map", "{}", "weight_map is missing", F},
    {"only metadata", "{\"metadata\":{\"total_size\":4}}", "weight_map is missing", F},
    {"map in another case", "{\"Weight_Map\":{}}", "weight_map is missing", F},
    {"map null", "{\"weight_map\":null}", "byte 14: an object that starts with '{'", F},
    {"map a list", "{\"weight_map\":[\"a\",\"b\"]}", "byte 14: an object that starts with '{'", F},
    {"map twice", "{\"weight_map\":{\"a\":\"s\"},\"weight_map\":{}}",
     "weight_map appears twice, at byte 37", F},
    {"map never closed", "{\"weight_map\":{\"a\":\"s\"",
     "byte 14: an object or array is not closed", F},
    {"text behind", MAP("") "x", "byte 17: something follows the object", F},
    {"NUL behind", MAP("") "~x00", "byte 17: something follows the object", F},
    {"shard ..", SHARD(".."), "shard name '..' at byte 19 is no plain file name", F},
    {"shard .", SHARD("."), "shard name '.' at byte 19 is no plain file name", F},
    {"shard ../x", SHARD("../x.safetensors"), "'../x.safetensors' at byte 19 is no plain", F},
    {"shard a/../../x", SHARD("a/../../x"), "'a/../../x' at byte 19 is no plain file name", F},
    {"shard absolute", SHARD("/etc/passwd"), "'/etc/passwd' at byte 19 is no plain file name", F},
    {"shard with escaped slash", SHARD("..\\/x"), "'../x' at byte 19 is no plain file name", F},
    {"shard with \\u002f", SHARD("..\\u002fx"), "'../x' at byte 19 is no plain file name", F},
    {"shard a folder", SHARD("sub/x.safetensors"), "'sub/x.safetensors' at byte 19 is no plain", F},
    {"shard empty", SHARD(""), "shard name '' at byte 19 is empty or longer than 255", F},
    {"shard of 256 bytes", SHARD("~256{s}"), "at byte 19 is empty or longer than 255", F},
    {"shard with NUL", SHARD("s\\u0000.x"), "invalid JSON at byte", F},
    {"shard with raw NUL", SHARD("s~x00"), "invalid JSON at byte", F},
    {"shard with control", SHARD("s~x1b"), "invalid JSON at byte", F},
    {"shard invalid UTF-8", SHARD("s~xff"), "invalid JSON at byte", F},
    {"shard a number", MAP("\"a\":1"), "byte 19: a string was expected", F},
    {"shard null", MAP("\"a\":null"), "byte 19: a string was expected", F},
    {"shard a list", MAP("\"a\":[\"s\"]"), "byte 19: a string was expected", F},
    {"shard an object", MAP("\"a\":{}"), "byte 19: a string was expected", F},
    {"shard of 70 KB", SHARD("~70000{s}"), "at byte 19", F},
    {"tensor twice", MAP("\"a\":\"s\",\"b\":\"s\",\"a\":\"t\""),
     "byte 31: weight_map names tensor 'a' twice", F},
    {"tensor twice, once escaped", MAP("\"a\":\"s\",\"\\u0061\":\"s\""),
     "byte 23: weight_map names tensor 'a' twice", F},
    {"tensor name of 100 KB", MAP("\"~100000{n}\":\"s\""), "string of 100000 bytes at byte 15", F},
    {"nested deep", "{\"metadata\":~100{[}~100{]},\"weight_map\":{}}", "nested more than 64 deep",
     F},
    {"metadata wrong inside", "{\"metadata\":{x},\"weight_map\":{}}", "invalid JSON at byte 1", F},
    {"metadata of 2 MB", "{\"metadata\":\"~2000000{m}\",\"weight_map\":{}}",
     "JSON value of 2000002 bytes at byte 12", F},
    {"key wrong inside", "{\"met~xffadata\":1,\"weight_map\":{}}", "invalid JSON at byte", F},
};

/* One more shard than there may be: a table of names that are all new. */
static void check_many(const hostile_suite *suite)
{
    static const hostile_case many = {"4097 shards", "", "is one too many: at most 4096 shards", F};
    static char text[4097 * 24 + 64];
    size_t used = (size_t)sprintf(text, "{\"weight_map\":{");
    for (int i = 0; i < 4097; i++) {
        used += (size_t)sprintf(text + used, "%s\"%d\":\"s%d\"", i == 0 ? "" : ",", i, i);
    }
    used += (size_t)sprintf(text + used, "}}");
    hostile_check(suite, &many, (const unsigned char *)text, used);
}

/* ---- what an index leads to: files beside it ---- */

static char folder[64];

static void put(const char *name, const char *text)
{
    char path[160];
    FILE *file;
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "w");
    CHECK(file != NULL && fputs(text, file) >= 0 && fclose(file) == 0, "cannot write %s", path);
}

static void drop(const char *name)
{
    char path[160];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    (void)unlink(path);
}

/* Finds tensor "a" in the folder. */
static epf_status find(const void *bytes, size_t num_bytes)
{
    epf_checkpoint *checkpoint;
    epf_tensor_view view;
    epf_status st = epf_checkpoint_open(folder, &checkpoint);
    (void)bytes;
    (void)num_bytes;
    if (st == EPF_OK) {
        st = epf_checkpoint_find(checkpoint, "a", &view);
        epf_checkpoint_close(checkpoint);
    }
    return st;
}

static void check_files(void)
{
    static const hostile_suite suite = {"index", find, SIZE_MAX / (1 << 20), 73728, NULL};
    static const struct {
        hostile_case c; /* its text is the index */
        const char *shard;
    } files[] = {
        {{"shard missing", SHARD("gone.safetensors"), "gone.safetensors: cannot be opened",
          EPF_E_FILE},
         NULL},
        {{"shard is the index", SHARD("model.safetensors.index.json"),
          "model.safetensors.index.json: header length", F},
         NULL},
        {{"shard is the config", SHARD("config.json"), "config.json: header length", F}, NULL},
        {{"shard is a folder", SHARD("sub"), "sub: is not a regular file", EPF_E_FILE}, NULL},
        {{"shard is a pipe", SHARD("pipe"), "pipe: is not a regular file", EPF_E_FILE}, NULL},
        {{"shard links to itself", SHARD("loop"), "loop: cannot be opened", EPF_E_FILE}, NULL},
        {{"shard is empty", SHARD("s"), "s: 0 bytes; a safetensors file has at least 8", F}, ""},
        {{"tensor elsewhere", MAP("\"b\":\"s\""), "tensor 'a' is missing", F}, ""},
    };
    char path[160];
    (void)snprintf(folder, sizeof folder, "/tmp/epfuse-hostile-XXXXXX");
    CHECK(mkdtemp(folder) != NULL, "no folder");
    put("config.json", "{\"model_type\":\"mixtral\"}");
    (void)snprintf(path, sizeof path, "%s/sub", folder);
    CHECK(mkdir(path, 0700) == 0, "sub");
    (void)snprintf(path, sizeof path, "%s/pipe", folder);
    CHECK(mkfifo(path, 0600) == 0, "pipe");
    (void)snprintf(path, sizeof path, "%s/loop", folder);
    CHECK(symlink("loop", path) == 0, "loop");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        put("model.safetensors.index.json", files[i].c.text);
        put("s", files[i].shard != NULL ? files[i].shard : "");
        hostile_check(&suite, &files[i].c, (const unsigned char *)files[i].c.text,
                      strlen(files[i].c.text));
    }
    drop("model.safetensors.index.json");
    drop("s");
    drop("config.json");
    drop("pipe");
    drop("loop");
    (void)snprintf(path, sizeof path, "%s/sub", folder);
    CHECK(rmdir(path) == 0 && rmdir(folder) == 0, "%s is not empty", folder);
}

int main(void)
{
    static const hostile_suite suite = {"index", read_bytes, 4, 73728, NULL};
    hostile_run(&suite, cases, sizeof cases / sizeof *cases);
    check_many(&suite);
    check_files();
    return hostile_end(&suite, 45);
}
