/* Reads the rows of planes that boxes show into a buffer that crosses to a GPU, and writes for each sample an entry of a table that
 * says where they lie and what is to be made of them. resize_kernel.py resizes them, by the filter of fast_resize.h.
 */
#include "y4m.h"

enum { UNIT = 16 }; /* bytes that places in the buffer are multiples of */

/* A sample's planes, one behind another from `place` (in units; below 0: they are not there) on: rows `first` to before `end` of a
 * picture `columns` wide, of which a pixel of chroma covers `across` x `down` (0: none); and its box, as an item has it. */
typedef struct {
    int32_t place, columns, across, down, first, end;
    int32_t left, top, width, height, whole_across, whole_down, x, y, bicubic, flip;
} staged;

static uint64_t bytes_of(const view *v) {
    uint64_t bytes = 0;
    for (int c = 0; c < v->planes; c++)
        bytes += v->strips[c].stride * v->strips[c].rows;
    return bytes;
}

/* Tells the most bytes that `stage_items` needs for each item, whose picture has the size of sizes[2 * i] x sizes[2 * i + 1]
 * pixels: of how its chroma is sampled, which its header says, only what fits the length of the stream comes in question. Rows of which
 * the kernel cannot count the bytes in 32 bits need none: without room they are left to the host. */
void stage_needs(const item *items, int count, int side, const int32_t *sizes, uint64_t *needs) {
    static const picture SAMPLINGS[] = {{.across = 1, .down = 1, .colours = GRAY},
                                        {.across = 1, .down = 1, .colours = YCBCR},
                                        {.across = 2, .down = 1, .colours = YCBCR},
                                        {.across = 2, .down = 2, .colours = YCBCR}};
    for (int i = 0; i < count; i++) {
        const item *it = &items[i];
        needs[i] = 0;
        for (int k = 0; k < 4 && it->planes && it->orientation == 1; k++) {
            picture p = SAMPLINGS[k];
            region unused;
            view v;
            p.width = sizes[2 * i], p.height = sizes[2 * i + 1];
            if (!see(&p, it, side, &unused, &v) || v.end > it->size || it->size - v.end > LONGEST_HEADER)
                continue;
            if (bytes_of(&v) > needs[i] && bytes_of(&v) <= INT32_MAX)
                needs[i] = bytes_of(&v);
        }
    }
}

static int stage(const item *it, int file, int side, uint64_t room, uint8_t *to, staged *out) {
    picture p;
    region unused;
    view v;
    int status = read_view(it, file, side, &p, &unused, &v);
    if (status != DONE || bytes_of(&v) > room)
        return status != DONE ? status : UNDECODABLE;
    for (int c = 0; c < v.planes; c++) {
        uint64_t bytes = v.strips[c].stride * v.strips[c].rows;
        if (!read_part(it, file, v.strips[c].from, bytes, to))
            return UNREADABLE;
        to += bytes;
    }
    int chroma = v.planes > 1;
    *out = (staged){
        .columns = p.width, .across = chroma ? p.across : 0, .down = chroma ? p.down : 0, .first = v.y0, .end = v.y1,
        .left = it->left, .top = it->top, .width = it->width, .height = it->height, .whole_across = it->across,
        .whole_down = it->down, .x = it->x, .y = it->y, .bicubic = it->bicubic != 0, .flip = it->flip != 0};
    return DONE;
}

/* Reads the rows of `count` items' planes to `buffer`, each from places[i] on and to before places[i + 1] at most, multiples of
 * UNIT, and fills their entries of `table`. Each item's status says whether it is DONE; what has no room is not read. */
void stage_items(item *items, int count, int side, const uint64_t *places, uint8_t *buffer, staged *table) {
    for (int i = 0; i < count; i++) {
        item *it = &items[i];
        uint64_t room = places[i + 1] - places[i];
        int file = room && !it->bytes ? opened(it) : -1, there = room && (it->bytes || file >= 0);
        it->status = there ? stage(it, file, side, room, buffer + places[i], &table[i]) : UNREADABLE;
        table[i].place = it->status == DONE ? (int32_t)(places[i] / UNIT) : -1;
        done_with(it, file);
    }
}
