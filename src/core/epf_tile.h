/*
 * epf_tile.h: the output tiles of a grouped GEMM and the one order in which every backend takes them.
 *
 * Rows of local expert e are [row_offset[e], row_offset[e] + rows[e]); M-tile t of the launch belongs
 * to the expert with tile_offset[e] <= t < tile_offset[e + 1] and never spans two experts
 * (docs/SEMANTICS.md, section "Tiles").  A task index i in [0, num_m_tiles * num_n_tiles) names one
 * (M-tile, N-tile) pair.  Inside one expert, groups of `group_m` M-tiles are swept column by column, so
 * that a group of rows and one column of weights are used together while they are near.
 */
#ifndef EPF_TILE_H
#define EPF_TILE_H

#include "core/epf_base.h"

typedef struct epf_tile_map {
    int32_t num_experts;        /* L, local experts */
    int32_t block_m;            /* rows of a full tile */
    int32_t num_n_tiles;        /* tiles along N */
    int32_t group_m;            /* M-tiles swept together; >= 1 */
    const int32_t *rows;        /* [L]      rows of each local expert */
    const int32_t *row_offset;  /* [L + 1]  exclusive prefix sum of rows */
    const int32_t *tile_offset; /* [L + 1]  exclusive prefix sum of ceil(rows / block_m) */
} epf_tile_map;

typedef struct epf_tile {
    int32_t expert;    /* local expert */
    int32_t m_tile;    /* M-tile, counted over all experts */
    int32_t n_tile;    /* N-tile */
    int32_t row_begin; /* first row */
    int32_t num_rows;  /* 1 .. block_m */
} epf_tile;

EPF_HD int32_t epf_tile_num_m(const epf_tile_map *map)
{
    return map->tile_offset[map->num_experts];
}

EPF_HD int64_t epf_tile_num_tasks(const epf_tile_map *map)
{
    return (int64_t)epf_tile_num_m(map) * map->num_n_tiles;
}

/* The expert that owns M-tile t, by binary search: the last e with tile_offset[e] <= t. */
EPF_HD int32_t epf_tile_expert(const epf_tile_map *map, int32_t m_tile)
{
    int32_t low = 0;
    int32_t high = map->num_experts - 1;
    while (low < high) {
        const int32_t middle = (low + high + 1) / 2;
        if (map->tile_offset[middle] <= m_tile) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/* The rows of M-tile t; n_tile is left at 0. */
EPF_HD epf_tile epf_tile_of_m(const epf_tile_map *map, int32_t m_tile)
{
    epf_tile tile;
    int32_t first;
    tile.expert = epf_tile_expert(map, m_tile);
    tile.m_tile = m_tile;
    tile.n_tile = 0;
    first = (m_tile - map->tile_offset[tile.expert]) * map->block_m;
    tile.row_begin = map->row_offset[tile.expert] + first;
    tile.num_rows = (int32_t)epf_min64(map->block_m, map->rows[tile.expert] - first);
    return tile;
}

/* M-tile and N-tile of an expert's task, both counted from the expert's first. */
typedef struct epf_tile_place {
    int32_t m;
    int32_t n;
} epf_tile_place;

/*
 * The place of an expert's task `in_expert` among its num_m M-tiles.  One expert has fewer than 2^31 tasks, so
 * the divisions are of 32 bits: on a GPU those of 64 bits cost a hundred instructions each.
 */
EPF_HD epf_tile_place epf_tile_sweep(int32_t in_expert, int32_t num_m, int32_t num_n_tiles,
                                     int32_t group_m)
{
    const int32_t group = in_expert / (group_m * num_n_tiles);
    const int32_t in_group = in_expert - group * group_m * num_n_tiles;
    const int32_t group_begin = group * group_m;
    const int32_t left = num_m - group_begin;
    const int32_t group_size = left < group_m ? left : group_m;
    epf_tile_place place;
    place.m = group_begin + in_group % group_size;
    place.n = in_group / group_size;
    return place;
}

/* Task `index` of the launch, which belongs to `expert`. */
EPF_HD epf_tile epf_tile_in_expert(const epf_tile_map *map, int32_t expert, int64_t index)
{
    const int32_t first_tile = map->tile_offset[expert];
    const int32_t num_m = map->tile_offset[expert + 1] - first_tile;
    const int32_t in_expert = (int32_t)(index - (int64_t)first_tile * map->num_n_tiles);
    const epf_tile_place place = epf_tile_sweep(in_expert, num_m, map->num_n_tiles, map->group_m);
    const int32_t first = place.m * map->block_m;
    const int32_t rest = map->rows[expert] - first;
    epf_tile tile;
    tile.expert = expert;
    tile.m_tile = first_tile + place.m;
    tile.n_tile = place.n;
    tile.row_begin = map->row_offset[expert] + first;
    tile.num_rows = rest < map->block_m ? rest : map->block_m;
    return tile;
}

/* Task `index` of the launch, 0 <= index < epf_tile_num_tasks(). */
EPF_HD epf_tile epf_tile_at(const epf_tile_map *map, int64_t index)
{
    const int32_t expert = epf_tile_expert(map, (int32_t)(index / map->num_n_tiles));
    return epf_tile_in_expert(map, expert, index);
}

/* A worker's way through tasks first, first + step, first + 2 * step, ...: cheaper than epf_tile_at(). */
typedef struct epf_tile_cursor {
    int64_t index;  /* the next task */
    int64_t step;   /* >= 1 */
    int32_t expert; /* no task from `index` on belongs to one before */
} epf_tile_cursor;

EPF_HD epf_tile_cursor epf_tile_begin(int64_t first, int64_t step)
{
    epf_tile_cursor cursor;
    cursor.index = first;
    cursor.step = step;
    cursor.expert = 0;
    return cursor;
}

/* Takes the cursor's next task; false when none is left. */
EPF_HD bool epf_tile_next(const epf_tile_map *map, epf_tile_cursor *cursor, epf_tile *tile)
{
    while (cursor->expert < map->num_experts &&
           cursor->index >= (int64_t)map->tile_offset[cursor->expert + 1] * map->num_n_tiles) {
        cursor->expert++;
    }
    if (cursor->expert >= map->num_experts) {
        return false;
    }
    *tile = epf_tile_in_expert(map, cursor->expert, cursor->index);
    cursor->index += cursor->step;
    return true;
}

#endif
