/* Feeds damaged images to the decoder of pipelines/decoding, with boxes, sizes and orientations that make sense or none.
 *
 *     decoder_fuzzing MUTANTS SEED NAME-WIDTHxHEIGHT.jpg|y4m...
 *
 * Compiled by decoder_fuzzing.py, with sanitizers that end it at the first fault. Every buffer is as long as it is said to be
 * and no longer. Prints how many mutants were decoded, refused as no JPEG that this decodes, and not read.
 */
#include "fast_decode.c"

static uint64_t state;

static uint32_t drawn(uint32_t below) { /* xorshift64* (Vigna, 2016) */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return below ? (uint32_t)((state * UINT64_C(2685821657736338717)) >> 32) % below : 0;
}

static int32_t perhaps_odd(int32_t usual) {
    static const int32_t odd[] = {0, -1, 1, 2, 65535, 65536, INT32_MAX, INT32_MIN, -100, 1000000};
    return drawn(60) ? usual : odd[drawn(sizeof odd / sizeof *odd)];
}

/* Damages `size` bytes in a buffer that has room for twice as many; returns how many are left. */
static size_t damaged(uint8_t *bytes, size_t size, size_t original) {
    size_t head = is_y4m(bytes, size) ? 80 : 700, reach = drawn(2) ? size : size < head ? size : head; /* half of it to headers */
    for (uint32_t changes = drawn(6); changes && size > 4; changes--) {
        size_t at = drawn(reach < size ? reach : size), length = 1 + drawn(64);
        length = at + length > size ? size - at : length;
        switch (drawn(8)) {
        case 7: bytes[at] = "0123456789WHCXFAIp \nFRAMEjpegmono"[drawn(33)]; break; /* what headers of planes are made of */
        case 0: bytes[at] ^= 1 << drawn(8); break;
        case 1: bytes[at] = drawn(256); break;
        case 2: bytes[at] = drawn(2) ? 0xFF : 0; break;
        case 3: size = drawn(4) ? size : at + 1; break; /* cut off */
        case 4: memmove(bytes + at, bytes + at + length, size - at - length), size -= length; break;
        case 5: /* a piece twice */
            if (size + length <= 2 * original)
                memmove(bytes + at + length, bytes + at, size - at), size += length;
            break;
        default:
            if (at + 2 <= size)
                bytes[at] = 0xFF, bytes[at + 1] = 0xC0 + drawn(64); /* a marker */
        }
    }
    return size;
}

/* Damages what restart markers say: renumbers, leaves out, doubles, moves; or the interval between them. */
static size_t misplaced(uint8_t *bytes, size_t size, size_t original) {
    for (uint32_t changes = drawn(4); changes && size > 8; changes--) {
        size_t at = drawn(size - 6);
        int wanted = drawn(6) ? RST0 : DRI;
        while (at + 6 < size && !(bytes[at] == 0xFF && (wanted == DRI ? bytes[at + 1] == DRI : (bytes[at + 1] & 0xF8) == RST0)))
            at++;
        if (at + 6 >= size)
            continue;
        switch (drawn(5)) {
        case 0: memmove(bytes + at, bytes + at + 2, size - at - 2), size -= 2; break;
        case 1:
            if (size + 2 <= 2 * original)
                memmove(bytes + at + 2, bytes + at, size - at), size += 2;
            break;
        case 2: bytes[at + (wanted == DRI ? 5 : 1)] = drawn(wanted == DRI ? 40 : 256); break;
        case 3: bytes[at + 1] = RST0 + drawn(10); break;
        default: memmove(bytes + at, bytes + at + 1, 2);
        }
    }
    return size;
}

/* Cuts for another decoder, and looks at every byte of what comes. */
static void cut_to_the_letter(const uint8_t *bytes, const item *it, int side) {
    buffer starts = {0}, memory = {0};
    part piece;
    uint32_t sum = 0;
    if (cut_for(bytes, it, 1 << drawn(4), side, 0, &starts, &memory, &piece)) {
        for (size_t k = 0; k < piece.room; k++)
            sum += piece.bytes[k];
        if (piece.size > it->size + 2 || piece.left < 0 || piece.top < 0 || sum == 0)
            abort();
    }
    free(starts.data);
    free(memory.data);
}

/* Stages what may be planes for a GPU, to no more room than was asked for; and what its kernel relies on must hold. */
static void stage_to_the_letter(item it, int width, int height, int side) {
    picture p;
    staged e = {.place = -1};
    uint64_t places[2] = {0}, luma, chroma = 0;
    if (read_header(it.bytes, it.size, &p))
        width = p.width, height = p.height;
    it.planes = 1;
    stage_needs(&it, 1, side, (int32_t[]){width, height}, &places[1]);
    if (places[1] > it.size)
        abort();
    uint8_t *buffer = malloc(places[1] ? places[1] : 1);
    stage_items(&it, 1, side, places, buffer, &e);
    free(buffer);
    if (e.place < 0)
        return;
    luma = (uint64_t)e.columns * (e.end - e.first);
    if (e.across)
        chroma = 2 * (uint64_t)quotient(e.columns, e.across) * (quotient(e.end, e.down) - e.first / e.down);
    if (e.left < 0 || e.left + e.width > e.columns || e.first < 0 || e.end <= e.first || luma + chroma > places[1] ||
        (e.across && e.first % e.down) || e.x < 0 || e.y < 0)
        abort();
}

/* Half of the planes' headers that can be read get as many bytes as they ask for, where that is not too many. */
static size_t as_long_as_said(uint8_t **bytes, size_t size) {
    picture p;
    if (!read_header(*bytes, size, &p) || drawn(2))
        return size;
    uint64_t chroma = p.colours == GRAY ? 0 : 2 * (uint64_t)quotient(p.width, p.across) * quotient(p.height, p.down);
    uint64_t wanted = p.start + (uint64_t)p.width * p.height + chroma;
    if (wanted > 1 << 20)
        return size;
    *bytes = realloc(*bytes, wanted);
    if (wanted > size)
        memset(*bytes + size, 77, wanted - size);
    return wanted;
}

int main(int count, char **words) {
    long mutants = atol(words[1]), seen[5] = {0};
    state = UINT64_C(88172645463325252) ^ (uint64_t)atol(words[2]) << 20;
    for (long mutant = 0; mutant < mutants; mutant++) {
        const char *name = words[3 + drawn(count - 3)];
        int width = 1, height = 1;
        sscanf(strrchr(name, '-'), "-%dx%d", &width, &height);
        FILE *file = fopen(name, "rb");
        fseek(file, 0, SEEK_END);
        size_t original = ftell(file), size;
        uint8_t *room = malloc(2 * original);
        rewind(file);
        size = fread(room, 1, original, file);
        fclose(file);
        int by_markers = strncmp(strrchr(name, '/'), "/windows", 8) == 0 && drawn(2);
        size = by_markers ? misplaced(room, size, original) : damaged(room, size, original);
        size = as_long_as_said(&room, size);
        uint8_t *bytes = malloc(size ? size : 1);
        memcpy(bytes, room, size);
        free(room);
        int side = 1 + drawn(drawn(8) ? 48 : 200);
        uint8_t *out = malloc((size_t)side * side * 3);
        item it = {.bytes = bytes, .size = size, .file = -1, .modified = -1};
        it.flip = drawn(2), it.orientation = drawn(20) ? 1 + drawn(8) : (int)drawn(20) - 5;
        int across = it.orientation < 5 ? width : height, down = it.orientation < 5 ? height : width;
        it.left = drawn(across), it.top = drawn(down);
        it.width = perhaps_odd(1 + drawn(across - it.left)), it.height = perhaps_odd(1 + drawn(down - it.top));
        it.left = perhaps_odd(it.left), it.top = perhaps_odd(it.top);
        it.bicubic = drawn(2), it.across = it.down = side;
        if (drawn(2)) { /* a square of a larger whole */
            it.across += drawn(side), it.down += drawn(4 * side);
            it.x = perhaps_odd(drawn(1 + it.across - side)), it.y = perhaps_odd(drawn(1 + it.down - side));
            it.across = perhaps_odd(it.across), it.down = perhaps_odd(it.down);
        }
        cut_to_the_letter(bytes, &it, side);
        stage_to_the_letter(it, width, height, side);
        carry_out_items(&it, 1, side, drawn(4), out);
        if (it.status < 0 || it.status > 4)
            abort();
        seen[it.status]++;
        free(bytes);
        free(out);
    }
    printf("%ld %ld %ld\n", seen[DONE], seen[UNDECODABLE] + seen[UNREADABLE], seen[NO_MEMORY]);
    return seen[0] != 0;
}
