// Items of events, as they lie in a file, into planes with a fixed number of slots for each event.
//
// Each event writes a fixed number of slots, whatever it has: values are chosen, not branched for, so
// that compilers turn the loop into vector instructions.  What it writes too many belongs to the next
// event, which comes after it; the last events, and those that would read beyond the end of the data,
// go slot by slot.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace {

typedef int64_t Index;

// Mirrored by _Record in hepdask_ml/data/scatter.py.
struct Record {
    const uint8_t* data;
    Index n_bytes;
    const void* offsets;  // n_events + 1 positions in bytes; null: lengths are known, and items have no gaps
    Index header;         // bytes to leave out at the begin of each event
    Index n_events;
    Index n_slots;
    int32_t* lengths;     // items of each event
    Index lengths_known;  // 1: to be compared, 0: to be filled in
    void* plane;          // (event, slot)
};

enum Outcome { DONE, DAMAGED, OTHER_LENGTHS, UNKNOWN_KIND };

static inline uint8_t turned(uint8_t a) { return a; }
static inline uint16_t turned(uint16_t a) { return __builtin_bswap16(a); }
static inline uint32_t turned(uint32_t a) { return __builtin_bswap32(a); }
static inline uint64_t turned(uint64_t a) { return __builtin_bswap64(a); }

template <int BYTES>
struct Word;
template <>
struct Word<1> { typedef uint8_t type; };
template <>
struct Word<2> { typedef uint16_t type; };
template <>
struct Word<4> { typedef uint32_t type; };
template <>
struct Word<8> { typedef uint64_t type; };

template <class In, bool SWAPPED>
static inline In item(const uint8_t* at) {
    typename Word<sizeof(In)>::type word;
    std::memcpy(&word, at, sizeof(In));
    if (SWAPPED) word = turned(word);
    In value;
    std::memcpy(&value, &word, sizeof(In));
    return value;
}

// Whether all events lie within the data and have whole items; fills in their lengths, or compares
// them with those of another branch.  Where all positions are, nothing overflows; where one is not, it
// may, which is harmless without a sign.
template <class In, class Offset, bool KNOWN>
Outcome check(const Record& r) {
    typedef typename std::make_unsigned<Offset>::type Distance;
    const Offset* __restrict offsets = (const Offset*)r.offsets;
    int32_t* __restrict lengths = r.lengths;
    const Distance header = (Distance)r.header;
    const Offset n_bytes = (Offset)std::min<Index>(r.n_bytes, std::numeric_limits<Offset>::max());
    Offset wrong = offsets[0] < 0;
    int32_t other = 0;
    for (Index event = 0; event < r.n_events; ++event) {
        const Offset end = offsets[event + 1];
        const Offset size = (Offset)((Distance)end - (Distance)offsets[event] - header);
        wrong |= (Offset)(end > n_bytes) | (Offset)(end < 0) | (Offset)(size < 0) | (size & (Offset)(sizeof(In) - 1));
        const int32_t length = (int32_t)(size / (Offset)sizeof(In));
        if (KNOWN)
            other |= lengths[event] ^ length;
        else
            lengths[event] = length;
    }
    return wrong ? DAMAGED : other ? OTHER_LENGTHS : DONE;
}

// Whether known lengths make up the data.
template <class In>
Outcome check_lengths(const Record& r) {
    Index total = 0;
    int32_t signs = 0;
    for (Index event = 0; event < r.n_events; ++event) {
        total += r.lengths[event];
        signs |= r.lengths[event];
    }
    return signs < 0 || total * (Index)sizeof(In) != r.n_bytes ? DAMAGED : DONE;
}

template <class In, class Out, bool SWAPPED, int WIDTH, class Offset, bool GAPLESS>
void fill(const Record& r) {
    const Offset* const offsets = (const Offset*)r.offsets;
    const int32_t* const lengths = r.lengths;
    const uint8_t* const data = r.data + r.header;
    const Out none = std::numeric_limits<Out>::quiet_NaN();
    const Index n_slots = r.n_slots, n_events = r.n_events;
    const Index whole = (n_slots + WIDTH - 1) / WIDTH * WIDTH;
    const Index last_read = r.n_bytes - r.header - whole * (Index)sizeof(In);
    Out* const plane = (Out*)r.plane;
    Index fast = n_events, at = r.n_bytes;
    for (; fast > 0; --fast) {
        at = GAPLESS ? at - lengths[fast - 1] * (Index)sizeof(In) : offsets[fast - 1];
        if ((fast - 1) * n_slots + whole <= n_events * n_slots && at <= last_read) break;
    }
    at = 0;
    for (Index event = 0; event < fast; ++event) {
        const int32_t length = lengths[event];
        const uint8_t* from = data + (GAPLESS ? at : offsets[event]);
        at += length * (Index)sizeof(In);
        Out* to = plane + event * n_slots;
        for (int32_t slot = 0; slot < (int32_t)n_slots; slot += WIDTH) {
            Out values[WIDTH];
            for (int32_t k = 0; k < WIDTH; ++k) values[k] = (Out)item<In, SWAPPED>(from + (slot + k) * sizeof(In));
            for (int32_t k = 0; k < WIDTH; ++k) to[slot + k] = k < length - slot ? values[k] : none;
        }
    }
    for (Index event = fast; event < n_events; ++event) {
        const uint8_t* from = data + (GAPLESS ? at : offsets[event]);
        at += lengths[event] * (Index)sizeof(In);
        Out* to = plane + event * n_slots;
        for (Index slot = 0; slot < n_slots; ++slot)
            to[slot] = slot < lengths[event] ? (Out)item<In, SWAPPED>(from + slot * sizeof(In)) : none;
    }
}

template <class In, class Out, bool SWAPPED, class Offset, bool GAPLESS>
Outcome pad(const Record& r) {
    const Outcome found = GAPLESS           ? check_lengths<In>(r)
                          : r.lengths_known ? check<In, Offset, true>(r)
                                            : check<In, Offset, false>(r);
    if (found != DONE) return found;
    if (r.n_slots <= 4)
        fill<In, Out, SWAPPED, 4, Offset, GAPLESS>(r);
    else
        fill<In, Out, SWAPPED, 8, Offset, GAPLESS>(r);
    return found;
}

template <class In, class Out, bool SWAPPED, class Offset>
Outcome pad(const Record& r) {
    return r.offsets ? pad<In, Out, SWAPPED, Offset, false>(r) : pad<In, Out, SWAPPED, Offset, true>(r);
}

// As they lie in a TTree: turned round, positions of 32 bits; as in memory: neither.
template <class In>
Outcome pad(const Record& r, bool stored, bool wide) {
    if (stored) return wide ? pad<In, double, true, int32_t>(r) : pad<In, float, true, int32_t>(r);
    return wide ? pad<In, double, false, int64_t>(r) : pad<In, float, false, int64_t>(r);
}

}  // namespace

// Pads the items of a record; their kind is the character of numpy's array protocol, and the plane
// holds float or, if wide, double.
extern "C" int hepdask_pad(const Record* record, int kind, int bytes, int stored, int wide) {
    const Record& r = *record;
    switch (kind * 16 + bytes) {
        case 'f' * 16 + 4: return pad<float>(r, stored, wide);
        case 'f' * 16 + 8: return pad<double>(r, stored, wide);
        case 'i' * 16 + 1: return pad<int8_t>(r, stored, wide);
        case 'i' * 16 + 2: return pad<int16_t>(r, stored, wide);
        case 'i' * 16 + 4: return pad<int32_t>(r, stored, wide);
        case 'i' * 16 + 8: return pad<int64_t>(r, stored, wide);
        case 'b' * 16 + 1:
        case 'u' * 16 + 1: return pad<uint8_t>(r, stored, wide);
        case 'u' * 16 + 2: return pad<uint16_t>(r, stored, wide);
        case 'u' * 16 + 4: return pad<uint32_t>(r, stored, wide);
        case 'u' * 16 + 8: return pad<uint64_t>(r, stored, wide);
    }
    return UNKNOWN_KIND;
}
