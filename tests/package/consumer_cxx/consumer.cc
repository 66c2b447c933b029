// consumer.cc: a C++17 program that knows only the installed library.  Two ranks, each a thread, meet.
// Its argument is the version that pkg-config promised.
#include <epfuse/epfuse.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <thread>

namespace {

constexpr int kRanks = 2;

const char *meet(epf_group *group)
{
    epf_op_config config;
    if (epf_op_config_init(&config) != EPF_OK) {
        return "config";
    }
    config.max_tokens = 4;
    config.hidden = 16;
    config.topk = 1;
    config.num_tot_experts = kRanks;
    epf_op *op = nullptr;
    if (epf_op_create(group, &config, &op) != EPF_OK) {
        return epf_last_error();
    }
    const epf_status status = epf_op_barrier(op);
    epf_op_destroy(op);
    return status == EPF_OK ? nullptr : epf_status_text(status);
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 2 || std::strcmp(argv[1], epf_version()) != 0) {
        std::fprintf(stderr, "the library says %s\n", epf_version());
        return 1;
    }
    std::array<epf_group *, kRanks> groups{};
    if (epf_group_create_threads(kRanks, nullptr, groups.data()) != EPF_OK) {
        std::fprintf(stderr, "%s\n", epf_last_error());
        return 1;
    }
    std::array<bool, kRanks> met{};
    std::array<std::thread, kRanks> ranks;
    for (int r = 0; r < kRanks; r++) {
        ranks[r] = std::thread([&, r] {
            const char *problem = meet(groups[r]);
            met[r] = problem == nullptr;
            if (problem != nullptr) {
                std::fprintf(stderr, "rank %d: %s\n", r, problem);
            }
        });
    }
    for (std::thread &rank : ranks) {
        rank.join();
    }
    for (epf_group *group : groups) {
        epf_group_destroy(group);
    }
    return met[0] && met[1] ? 0 : 1;
}
