/* gates.c - see emit.h. Registers, spills and stacks come from what `ptxas -v` prints and from the note of AMD's
 * code object (NT_AMDGPU_METADATA, MessagePack; "LLVM User Guide for AMDGPU Backend", code object metadata). */
#include "emit.h"

#include <elf.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the gates -------------------------------------------------------------------------------------------------- */

/* "; one of its settings has to be smaller: rows=64,warps=4", from the kernel's name. */
static void put_advice(const Kernel *k, const char *accept, Buf *out)
{
    const char *settings = strchr(k->name, ' ');
    settings = settings ? strchr(settings + 1, ' ') : NULL;
    buf_printf(out, "; make a tile of its schedule smaller or give it more warps (settings now:%s), or let the "
               "schedule declare accepts = { \"%s\" }", settings ? settings : " none", accept);
}

static bool refuse(const Kernel *k, const Target *t, const char *accept, const char *what, Err *err)
{
    Buf text = {0};
    put_advice(k, accept, &text);
    err_set(err, "kernel '%s' for %s: %s%s", k->name, t->name, what, text.data);
    buf_free(&text);
    return false;
}

enum { STACK_SLACK = 64 /* bytes that a stack of spilled registers has besides them */ };

static bool judge(const Kernel *k, const Target *t, KernelInfo *info, const char *note, Err *err)
{
    char what[512];
    const char *limit;
    info->occupancy = gpu_occupancy(t, info, &limit);
    if (!info->occupancy && *limit)
        return err_set(err, "kernel '%s' for %s: a block of %d threads with %d registers each and %lld bytes of shared "
                       "memory does not fit on a multiprocessor (too much: %s)", k->name, t->name, info->threads,
                       info->registers, (long long)info->shared, limit);
    if (info->spills && !(k->accepts & ACCEPT_SPILLS)) {
        snprintf(what, sizeof what, "%d bytes of registers a thread are spilled (it has %d registers)", info->spills,
                 info->registers);
        return refuse(k, t, "spills", what, err);
    }
    int of_spills = k->accepts & ACCEPT_SPILLS && info->spills ? info->spills + STACK_SLACK : 0;
    if (info->stack > of_spills && !(k->accepts & ACCEPT_STACK)) {
        snprintf(what, sizeof what, "%d bytes a thread lie in memory of its own (a stack), not in registers",
                 info->stack);
        return refuse(k, t, "stack", what, err);
    }
    if (note && !(k->accepts & ACCEPT_NOTES)) {
        snprintf(what, sizeof what, "the assembler says: %.*s", (int)MIN(strcspn(note, "\n"), 400), note);
        return refuse(k, t, "notes", what, err);
    }
    return true;
}

/* ---- NVIDIA ----------------------------------------------------------------------------------------------------- */

/* The number in front of the first place of `what`, in the line that starts at `line`; 0 when it isn't there. */
static int number_before(const char *line, const char *what)
{
    size_t n = strcspn(line, "\n");
    const char *at = strstr(line, what);
    if (!at || at >= line + n || at == line || at[-1] != ' ')
        return 0;
    const char *digits = at - 1;
    while (digits > line && digits[-1] >= '0' && digits[-1] <= '9')
        digits--;
    long v = strtol(digits, NULL, 10);
    return v > 0 && v < INT_MAX ? (int)v : 0;
}

/* Notes C7500 to C7599: instructions made serial, register hints ignored and the like. */
static bool is_note(const char *line)
{
    size_t n = strcspn(line, "\n");
    const char *at = strstr(line, "(C75");
    return at && at < line + n;
}

static void read_line(const char *line, KernelInfo *info, const char **note)
{
    int stack = number_before(line, "bytes stack frame"), stores = number_before(line, "bytes spill stores");
    int loads = number_before(line, "bytes spill loads");
    int registers = number_before(line, "registers");
    info->stack = MAX(info->stack, stack);
    info->spills = MAX(info->spills, MAX(stores, loads));
    if (registers && strstr(line, "Used "))
        info->registers = registers;
    if (!*note && is_note(line))
        *note = line;
}

bool gate_nvidia(const Kernel *k, const Target *t, const char *log, KernelInfo *info, Err *err)
{
    const char *note = NULL;
    info->registers = info->spills = info->stack = 0;
    for (const char *line = log; *line; line += strcspn(line, "\n"), line += *line == '\n')
        read_line(line, info, &note);
    if (!info->registers)
        return err_set(err, "kernel '%s' for %s: ptxas did not say how many registers it uses: %.300s", k->name,
                       t->name, *log ? log : "nothing");
    return judge(k, t, info, note, err);
}

/* LLVM's stack in PTX: .local .align 4 .b8 __local_depot0[256]; */
bool gate_ptx(const Kernel *k, const Target *t, const char *ptx, KernelInfo *info, Err *err)
{
    static const char depot[] = "__local_depot0[";
    const char *at = strstr(ptx, depot);
    info->stack = at ? (int)MIN(MAX(strtol(at + strlen(depot), NULL, 10), 1), INT_MAX) : 0;
    return judge(k, t, info, NULL, err);
}

/* ---- AMD: MessagePack ------------------------------------------------------------------------------------------- */

typedef struct Pick { /* what is read of a document, and where reading is */
    const uint8_t *at, *end;
    int64_t agprs, vgprs, vgpr_spills, private_bytes, dynamic;
    bool seen;
} Pick;

static uint64_t big_endian(Pick *p, int bytes)
{
    uint64_t v = 0;
    for (; bytes > 0; bytes--)
        v = v << 8 | (p->at < p->end ? *p->at++ : 0);
    return v;
}

/* Length of a string, array or map, or value of an integer: small ones lie in the head byte. */
typedef enum Shape { SHAPE_OTHER, SHAPE_INT, SHAPE_BOOL, SHAPE_STR, SHAPE_ARRAY, SHAPE_MAP } Shape;

static Shape read_head(Pick *p, uint64_t *n)
{
    uint8_t head = p->at < p->end ? *p->at++ : 0xc0;
    *n = 0;
    if (head < 0x80)
        return *n = head, SHAPE_INT;
    if (head < 0x90)
        return *n = head & 15, SHAPE_MAP;
    if (head < 0xa0)
        return *n = head & 15, SHAPE_ARRAY;
    if (head < 0xc0)
        return *n = head & 31, SHAPE_STR;
    if (head == 0xc2 || head == 0xc3)
        return *n = head & 1, SHAPE_BOOL;
    if (head >= 0xcc && head <= 0xd3)
        return *n = big_endian(p, 1 << (head & 3)), SHAPE_INT;
    if (head >= 0xd9 && head <= 0xdb)
        return *n = big_endian(p, 1 << (head - 0xd9)), SHAPE_STR;
    if (head == 0xdc || head == 0xdd)
        return *n = big_endian(p, 2 << (head - 0xdc)), SHAPE_ARRAY;
    if (head == 0xde || head == 0xdf)
        return *n = big_endian(p, 2 << (head - 0xde)), SHAPE_MAP;
    if (head == 0xca || head == 0xcb)
        big_endian(p, head == 0xca ? 4 : 8);
    return SHAPE_OTHER;
}

static void note_field(Pick *p, const char *key, size_t len, uint64_t value)
{
    struct { const char *name; int64_t *to; } fields[] = {
        {".agpr_count", &p->agprs}, {".vgpr_count", &p->vgprs}, {".vgpr_spill_count", &p->vgpr_spills},
        {".private_segment_fixed_size", &p->private_bytes}, {".uses_dynamic_stack", &p->dynamic}};
    for (size_t i = 0; i < COUNT(fields); i++)
        if (strlen(fields[i].name) == len && !memcmp(fields[i].name, key, len)) {
            *fields[i].to = MAX(*fields[i].to, (int64_t)MIN(value, INT_MAX));
            p->seen = true;
        }
}

/* Reads one value; `key` is what it stands under in a map. False when the document ends early or is nested too deep. */
static bool read_value(Pick *p, const char *key, size_t key_len, int depth)
{
    uint64_t n;
    Shape shape = read_head(p, &n);
    if (depth > 8 || ((shape >= SHAPE_STR) && n > (uint64_t)(p->end - p->at)))
        return false;
    if (shape == SHAPE_STR)
        p->at += n;
    else if (shape == SHAPE_INT || shape == SHAPE_BOOL)
        note_field(p, key, key_len, n);
    for (uint64_t i = 0; i < n && (shape == SHAPE_ARRAY || shape == SHAPE_MAP); i++) {
        const char *name = "";
        uint64_t len = 0;
        if (shape == SHAPE_MAP) {
            if (read_head(p, &len) != SHAPE_STR || len > (uint64_t)(p->end - p->at))
                return false;
            name = (const char *)p->at;
            p->at += len;
        }
        if (!read_value(p, name, len, depth + 1))
            return false;
    }
    return true;
}

/* ---- AMD: the note ---------------------------------------------------------------------------------------------- */

enum { NT_AMDGPU_METADATA = 32 };

/* Finds the metadata among the notes of a section. */
static bool find_note(const uint8_t *at, const uint8_t *end, Pick *p)
{
    while (end - at >= (ptrdiff_t)sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr h;
        memcpy(&h, at, sizeof h);
        uint64_t name = (h.n_namesz + 3ull) & ~3ull, text = (h.n_descsz + 3ull) & ~3ull;
        if (name + text > (uint64_t)(end - at) - sizeof h)
            return false;
        if (h.n_type == NT_AMDGPU_METADATA) {
            p->at = at + sizeof h + name;
            p->end = p->at + h.n_descsz;
            return true;
        }
        at += sizeof h + name + text;
    }
    return false;
}

bool code_section(const Buf *code, int *at, Elf64_Shdr *s)
{
    Elf64_Ehdr h;
    if (code->len < sizeof h)
        return false;
    memcpy(&h, code->data, sizeof h);
    if (memcmp(h.e_ident, ELFMAG, SELFMAG) || h.e_shentsize != sizeof *s || h.e_shoff > code->len ||
        h.e_shnum > (code->len - h.e_shoff) / sizeof *s)
        return false;
    while (*at < h.e_shnum) {
        memcpy(s, code->data + h.e_shoff + (size_t)(*at)++ * sizeof *s, sizeof *s);
        if (s->sh_offset <= code->len && s->sh_size <= code->len - s->sh_offset)
            return true;
    }
    return false;
}

static bool find_metadata(const Buf *code, Pick *p)
{
    Elf64_Shdr s;
    for (int i = 0; code_section(code, &i, &s);) {
        const uint8_t *at = (const uint8_t *)code->data + s.sh_offset;
        if (s.sh_type == SHT_NOTE && find_note(at, at + s.sh_size, p))
            return true;
    }
    return false;
}

bool gate_amd(const Kernel *k, const Target *t, const Buf *code, KernelInfo *info, Err *err)
{
    Pick p = {0};
    if (!find_metadata(code, &p) || !read_value(&p, "", 0, 0) || !p.seen)
        return err_set(err, "kernel '%s' for %s: the code object has no metadata that can be read", k->name, t->name);
    info->registers = (int)p.vgprs; /* on gfx90a and gfx942 this is the sum, on gfx1100 there are no others */
    info->spills = 4 * (int)MIN(p.vgpr_spills, 1 << 20);
    info->stack = p.dynamic ? MAX((int)p.private_bytes, 1) : (int)p.private_bytes;
    return judge(k, t, info, NULL, err);
}

/* ---- AMD: the disassembly --------------------------------------------------------------------------------------- */

static bool has_word(const char *line, size_t n, const char *word)
{
    const char *at = memmem(line, n, word, strlen(word));
    return at != NULL;
}

/* Copies from memory straight into on-chip memory: global_load_lds_*, buffer_load_* ... lds. */
static bool is_lds_copy(const char *line, size_t n)
{
    bool to_lds = n >= 4 && !memcmp(line + n - 4, " lds", 4);
    return has_word(line, n, "_load_lds_") || (has_word(line, n, "buffer_load_") && to_lds);
}

bool gate_amd_waits(const char *assembly, Err *err)
{
    const char *copy = NULL;
    for (const char *line = assembly; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        size_t n = strcspn(line, "\n");
        if (is_lds_copy(line, n))
            copy = line;
        else if (has_word(line, n, "s_waitcnt") && has_word(line, n, "vmcnt("))
            copy = NULL;
        else if (has_word(line, n, "s_barrier") && copy)
            return err_set(err, "a barrier stands before the wait for the copy '%.*s'",
                           (int)MIN(strcspn(copy, "\n"), 100), copy + strspn(copy, " \t"));
    }
    return true;
}
