/* The plan of a module: sizes, offsets and text, every one of them checked against the bytes that there are. */
#include <string.h>

#include "internal.h"

static const struct {
  uint8_t code, bits;
} TYPES[] = {{0, 0}, {2, 32}, {2, 64}, {2, 16}, {0, 8}, {1, 8}, {0, 16}, {1, 16}, {0, 32}, {1, 32}, {0, 64}, {1, 64}, {6, 8}};
enum { TYPE_COUNT = sizeof TYPES / sizeof TYPES[0] };
static const uint64_t MOST_BYTES = (uint64_t)1 << 40;
static const uint32_t AUXILIARY_WORDS[] = {16, 26}; /* AT_HWCAP, AT_HWCAP2 */

_Static_assert(sizeof(plan_header) == 80 && sizeof(plan_value) == 40 && sizeof(plan_argument) == 24, "the plan is packed for these sizes");
_Static_assert(sizeof(plan_constant) == 16 && sizeof(plan_op) == 24 && sizeof(plan_need) == 16, "the plan is packed for these sizes");

data_type plan_type(uint32_t type) { return (data_type){TYPES[type].code, TYPES[type].bits, 1}; }

static bool has_text(const plan* p, uint32_t offset) { return offset < p->header->text; }

/* Bytes of the argument; false where it has none: an unknown type, extents beyond the end, or more than a machine has. */
static bool size_of(const plan* p, const plan_argument* a, uint64_t* bytes) {
  if (a->type == 0 || a->type >= TYPE_COUNT || a->dims > MOST_DIMS) return false;
  if (a->shape > p->header->extents || a->dims > p->header->extents - a->shape) return false;
  uint64_t total = TYPES[a->type].bits / 8;
  for (uint32_t i = 0; i < a->dims; i++) {
    int64_t extent = p->extents[a->shape + i];
    if (extent < 0 || (uint64_t)extent > MOST_BYTES) return false;
    if (extent && total > MOST_BYTES / (uint64_t)extent) return false;
    total *= (uint64_t)extent;
  }
  *bytes = total;
  return true;
}

size_t plan_bytes(const plan* read, const plan_argument* argument) {
  uint64_t bytes = 0;
  return size_of(read, argument, &bytes) ? (size_t)bytes : 0;
}

/* Whether the argument lies inside of what it names. */
static bool is_inside(const plan* p, const plan_argument* a) {
  uint64_t bytes, held;
  if (!size_of(p, a, &bytes)) return false;
  if (a->home == HOME_TENSOR) return a->place <= p->header->arena && bytes <= p->header->arena - a->place && a->place % ALIGNMENT == 0;
  if (a->home == HOME_CONSTANT) return a->place < p->header->constants && bytes <= p->constants[a->place].bytes;
  return a->home == HOME_INPUT && a->place < p->header->inputs && size_of(p, &p->values[a->place].where, &held) && bytes <= held;
}

static bool values_are_sound(const plan* p) {
  uint32_t count = p->header->inputs + p->header->outputs;
  for (uint32_t i = 0; i < count; i++) {
    const plan_value* v = &p->values[i];
    if (!has_text(p, v->name) || !has_text(p, v->file) || !is_inside(p, &v->where)) return false;
    if (i < p->header->inputs && (v->where.home != HOME_INPUT || v->where.place != i)) return false;
    if (!(v->scale >= 0)) return false;
  }
  return true;
}

static bool ops_are_sound(const plan* p) {
  for (uint32_t i = 0; i < p->header->arguments; i++)
    if (!is_inside(p, &p->arguments[i])) return false;
  for (uint32_t i = 0; i < p->header->ops; i++) {
    const plan_op* op = &p->ops[i];
    if (!has_text(p, op->name) || !has_text(p, op->kernel) || op->macs > INT64_MAX) return false;
    if (op->first > p->header->arguments || op->count > p->header->arguments - op->first) return false;
  }
  return true;
}

static bool needs_are_sound(const plan* p) {
  for (uint32_t i = 0; i < p->header->needs; i++) {
    const plan_need* need = &p->needs[i];
    bool known = need->word == AUXILIARY_WORDS[0] || need->word == AUXILIARY_WORDS[1];
    if (!has_text(p, need->name) || !known || need->bit >= 64) return false;
  }
  return true;
}

static bool constants_are_sound(const plan* p, size_t stored) {
  for (uint32_t i = 0; i < p->header->constants; i++)
    if (p->constants[i].offset > stored || p->constants[i].bytes > stored - p->constants[i].offset) return false;
  return true;
}

/* The next `count` records of `size` bytes; NULL where they end beyond the plan. */
static const void* take(const unsigned char* memory, uint64_t* at, uint64_t end, uint64_t count, uint64_t size) {
  if (count * size > end - *at) return NULL; /* count has 32 bits */
  const void* here = memory + *at;
  *at += count * size;
  return here;
}

static bool cut(plan* p, const unsigned char* memory) {
  const plan_header* h = p->header;
  uint64_t at = sizeof *h, end = h->bytes;
  p->values = take(memory, &at, end, (uint64_t)h->inputs + h->outputs, sizeof(plan_value));
  if (p->values) p->constants = take(memory, &at, end, h->constants, sizeof(plan_constant));
  if (p->constants) p->arguments = take(memory, &at, end, h->arguments, sizeof(plan_argument));
  if (p->arguments) p->ops = take(memory, &at, end, h->ops, sizeof(plan_op));
  if (p->ops) p->needs = take(memory, &at, end, h->needs, sizeof(plan_need));
  if (p->needs) p->extents = take(memory, &at, end, h->extents, sizeof(int64_t));
  if (p->extents) p->text = take(memory, &at, end, h->text, 1);
  return p->text && at == end && h->text && p->text[h->text - 1] == 0;
}

bool plan_read(plan* read, const void* memory, size_t bytes, size_t stored, char* error) {
  *read = (plan){0};
  read->header = memory;
  const plan_header* h = read->header;
  if (bytes < sizeof *h || memcmp(h->magic, "mpqcplan", 8) != 0) return say(error, "it has no plan: it was not made by mpqc"), false;
  if (h->version != 1) return say(error, "its plan has version %u, this library reads 1: use the library of the same bundle", h->version), false;
  if (h->bytes < sizeof *h || h->bytes > bytes || h->arena > MOST_BYTES) return say(error, "its plan is damaged: sizes"), false;
  if (h->inputs > 1 << 20 || h->outputs > 1 << 20 || !cut(read, memory)) return say(error, "its plan is damaged: counts"), false;
  if (!has_text(read, h->name) || !has_text(read, h->target)) return say(error, "its plan is damaged: names"), false;
  if (!constants_are_sound(read, stored)) return say(error, "its plan is damaged: constants"), false;
  if (!values_are_sound(read)) return say(error, "its plan is damaged: inputs and outputs"), false;
  if (!ops_are_sound(read)) return say(error, "its plan is damaged: kernel calls"), false;
  if (!needs_are_sound(read)) return say(error, "its plan is damaged: instructions"), false;
  return true;
}
