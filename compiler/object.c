/* object.c - the loader of relocatable objects; see object.h. Three walks over each object: measure (sections kept,
 * slots and outside functions needed), place (copy into the mapping), relocate. */
#include "object.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, STUB_BYTES = 16, MAX_SECTIONS = 65000 };

/* A function outside of the objects; reached through a stub, since libc is farther away than 2 GB. */
typedef struct External {
    const char *name;
    void *address;
} External;

/* What every kernel may call. */
static const External externals[] = {
    {"memcpy", (void *)memcpy},
    {"memmove", (void *)memmove},
    {"memset", (void *)memset},
};

typedef struct Section {
    Elf64_Shdr h;
    bool keep;
    uint64_t offset; /* in its half of the mapping */
} Section;

typedef struct Object {
    const ObjectSource *src;
    Section *sections;
    size_t count, symtab; /* symtab 0: none */
    size_t slots;         /* 8-byte address slots for GOT relocations */
    uint64_t slot_offset; /* of the first, in the constants */
} Object;

typedef struct Loader {
    Object *objects;
    size_t count;
    uint64_t text, data; /* bytes of either half so far */
    VEC(External) outside; /* that the objects name; a stub and a slot each */
    ObjectResolver *resolve; /* NULL: only `externals` */
    bool low;            /* some relocation holds an absolute 32-bit address */
    uint8_t *base;       /* of the mapping; constants begin at base + text */
} Loader;

static bool fail(const Object *o, Err *err, const char *what)
{
    return err_set(err, "object '%s': %s", o->src->name, what);
}

/* Copies n bytes out of the object; objects in memory need not be aligned. */
static bool fetch(const Object *o, uint64_t offset, void *out, size_t n)
{
    if (offset > o->src->size || n > o->src->size - offset)
        return false;
    memcpy(out, o->src->data + offset, n);
    return true;
}

static bool is_text(const Section *s)
{
    return s->h.sh_flags & SHF_EXECINSTR;
}

static uint64_t align_up(uint64_t n, uint64_t a)
{
    return (n + a - 1) / a * a;
}

/* ---- reading -------------------------------------------------------------------------------------------------- */

/* A string of a string table, NUL-terminated inside of it; NULL when it is not. */
static const char *string_at(const Object *o, const Section *table, uint64_t at)
{
    if (table->h.sh_type != SHT_STRTAB || at >= table->h.sh_size)
        return NULL;
    const char *s = (const char *)o->src->data + table->h.sh_offset + at;
    return memchr(s, 0, (size_t)(table->h.sh_size - at)) ? s : NULL;
}

static bool read_header(Object *o, Elf64_Ehdr *eh, Err *err)
{
    if (!fetch(o, 0, eh, sizeof *eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG))
        return fail(o, err, "not an ELF object");
    if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB || eh->e_type != ET_REL)
        return fail(o, err, "not a 64-bit little-endian relocatable object");
    if (eh->e_machine != EM_X86_64)
        return err_set(err, "object '%s': code for ELF machine %d; this program loads x86-64 (%d)", o->src->name,
                       eh->e_machine, EM_X86_64);
    if (eh->e_shentsize != sizeof(Elf64_Shdr) || !eh->e_shnum || eh->e_shnum > MAX_SECTIONS)
        return fail(o, err, "malformed section table");
    return true;
}

static bool read_sections(Object *o, Arena *a, Err *err)
{
    Elf64_Ehdr eh;
    if (!read_header(o, &eh, err))
        return false;
    if (eh.e_shoff > o->src->size || (o->src->size - eh.e_shoff) / sizeof(Elf64_Shdr) < eh.e_shnum)
        return fail(o, err, "section table outside of the object");
    o->count = eh.e_shnum;
    o->sections = arena_array(a, Section, o->count);
    for (size_t i = 0; i < o->count; i++) {
        Elf64_Shdr *h = &o->sections[i].h;
        if (!fetch(o, eh.e_shoff + i * sizeof *h, h, sizeof *h))
            return fail(o, err, "section table outside of the object");
        if (h->sh_type != SHT_NOBITS && h->sh_type != SHT_NULL &&
            (h->sh_offset > o->src->size || h->sh_size > o->src->size - h->sh_offset))
            return fail(o, err, "a section lies outside of the object");
        if (h->sh_type == SHT_SYMTAB)
            o->symtab = i;
    }
    const Section *symbols = &o->sections[o->symtab];
    if (!o->symtab || symbols->h.sh_link >= o->count || symbols->h.sh_entsize != sizeof(Elf64_Sym))
        return fail(o, err, "no symbol table");
    return true;
}

/* Decides whether a section is loaded, and gives it room. */
static bool place_section(Loader *l, Object *o, Section *s, Err *err)
{
    const Elf64_Shdr *h = &s->h;
    if (!(h->sh_flags & SHF_ALLOC) || !h->sh_size)
        return true;
    if (h->sh_type == SHT_NOTE || h->sh_type == SHT_X86_64_UNWIND)
        return true;
    if (h->sh_flags & (SHF_WRITE | SHF_TLS) || h->sh_type == SHT_NOBITS)
        return fail(o, err, "has writable data; kernels may only have code and constants");
    if (h->sh_type != SHT_PROGBITS)
        return fail(o, err, "has a loaded section of an unknown kind");
    uint64_t align = h->sh_addralign ? h->sh_addralign : 1;
    if (align & (align - 1) || align > PAGE)
        return fail(o, err, "a section's alignment is not a power of two up to 4096");
    uint64_t *half = is_text(s) ? &l->text : &l->data;
    s->offset = align_up(*half, MAX(align, 16));
    *half = s->offset + h->sh_size;
    s->keep = true;
    return true;
}

/* The section that relocations of section r apply to, or NULL when it is not loaded. */
static Section *relocated(const Object *o, const Section *r)
{
    if (r->h.sh_type != SHT_RELA || r->h.sh_info >= o->count || !o->sections[r->h.sh_info].keep)
        return NULL;
    return &o->sections[r->h.sh_info];
}

static bool fetch_rela(const Object *o, const Section *r, uint64_t i, Elf64_Rela *out)
{
    return fetch(o, r->h.sh_offset + i * sizeof *out, out, sizeof *out);
}

/* Leaves out .eh_frame that an assembler marked as plain data. */
static bool is_unwind(const Object *o, size_t names, const Section *s)
{
    const char *name = names < o->count ? string_at(o, &o->sections[names], s->h.sh_name) : NULL;
    return name && !strcmp(name, ".eh_frame");
}

static const char *symbol_name(const Object *o, const Elf64_Sym *sym)
{
    const char *name = string_at(o, &o->sections[o->sections[o->symtab].h.sh_link], sym->st_name);
    return name ? name : "?";
}

static bool fetch_symbol(const Object *o, uint64_t i, Elf64_Sym *sym)
{
    const Elf64_Shdr *h = &o->sections[o->symtab].h;
    return i < h->sh_size / sizeof *sym && fetch(o, h->sh_offset + i * sizeof *sym, sym, sizeof *sym);
}

static const External *find_external(const External *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (!strcmp(list[i].name, name))
            return &list[i];
    return NULL;
}

/* Notes the functions that an object wants from outside; those that nobody has are refused where they are used. */
static void collect_outside(Loader *l, const Object *o)
{
    Elf64_Sym sym;
    for (uint64_t i = 1; fetch_symbol(o, i, &sym); i++) {
        const char *name = symbol_name(o, &sym);
        if (sym.st_shndx != SHN_UNDEF || find_external(l->outside.at, l->outside.len, name))
            continue;
        const External *known = find_external(externals, COUNT(externals), name);
        void *address = known ? known->address : l->resolve ? l->resolve(name) : NULL;
        if (address)
            vec_push(&l->outside, (External){name, address});
    }
}

static bool measure(Loader *l, Object *o, Err *err)
{
    Elf64_Ehdr eh;
    fetch(o, 0, &eh, sizeof eh);
    for (size_t i = 0; i < o->count; i++)
        if (!is_unwind(o, eh.e_shstrndx, &o->sections[i]) && !place_section(l, o, &o->sections[i], err))
            return false;
    for (size_t i = 0; i < o->count; i++) {
        const Section *r = &o->sections[i];
        if (r->h.sh_type == SHT_REL && r->h.sh_info < o->count && o->sections[r->h.sh_info].keep)
            return fail(o, err, "relocations without addends");
        if (!relocated(o, r))
            continue;
        Elf64_Rela rela;
        for (uint64_t k = 0; k < r->h.sh_size / sizeof rela && fetch_rela(o, r, k, &rela); k++) {
            uint32_t type = ELF64_R_TYPE(rela.r_info);
            o->slots += type == R_X86_64_GOTPCREL || type == R_X86_64_GOTPCRELX || type == R_X86_64_REX_GOTPCRELX;
            l->low |= type == R_X86_64_32 || type == R_X86_64_32S;
        }
    }
    l->data = align_up(l->data, 8);
    o->slot_offset = l->data;
    l->data += 8 * o->slots;
    return true;
}

/* ---- placing -------------------------------------------------------------------------------------------------- */

/* Stub i: jmp *slot(%rip), the slot being the i-th of the constants. */
static void write_stubs(const Loader *l)
{
    for (size_t i = 0; i < l->outside.len; i++) {
        uint8_t *stub = l->base + i * STUB_BYTES, *slot = l->base + l->text + 8 * i;
        int32_t displacement = (int32_t)(slot - (stub + 6));
        uint64_t address = (uint64_t)(uintptr_t)l->outside.at[i].address;
        stub[0] = 0xFF;
        stub[1] = 0x25;
        memcpy(stub + 2, &displacement, 4);
        memcpy(slot, &address, 8);
    }
}

static uint8_t *section_address(const Loader *l, const Section *s)
{
    return l->base + (is_text(s) ? 0 : l->text) + s->offset;
}

static bool map_memory(Loader *l, ObjectCode *code, Err *err)
{
    l->text = align_up(l->text, PAGE);
    uint64_t size = align_up(l->text + l->data, PAGE);
    if (size > (uint64_t)1 << 30)
        return err_set(err, "kernels of %llu bytes, more than 1 GB", (unsigned long long)size);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_32BIT
    flags |= l->low ? MAP_32BIT : 0;
#endif
    void *p = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED)
        return err_set(err, "cannot map %llu bytes for kernels: %s", (unsigned long long)size, strerror(errno));
    l->base = p;
    *code = (ObjectCode){p, (size_t)size};
    return true;
}

/* ---- relocating ----------------------------------------------------------------------------------------------- */

static bool external_stub(const Loader *l, const char *name, uint64_t *address)
{
    const External *e = find_external(l->outside.at, l->outside.len, name);
    if (e)
        *address = (uint64_t)(uintptr_t)(l->base + (size_t)(e - l->outside.at) * STUB_BYTES);
    return e != NULL;
}

static bool symbol_address(const Loader *l, const Object *o, uint64_t index, uint64_t *address, Err *err)
{
    Elf64_Sym sym;
    if (!fetch_symbol(o, index, &sym))
        return fail(o, err, "a relocation names a symbol outside of the symbol table");
    if (sym.st_shndx == SHN_UNDEF) {
        const char *name = symbol_name(o, &sym);
        return external_stub(l, name, address) ||
               err_set(err, "object '%s': undefined symbol '%.100s'", o->src->name, name);
    }
    if (sym.st_shndx >= o->count || !o->sections[sym.st_shndx].keep)
        return fail(o, err, "a relocation refers to a section that is not loaded");
    const Section *s = &o->sections[sym.st_shndx];
    if (sym.st_value > s->h.sh_size)
        return fail(o, err, "a symbol lies outside of its section");
    *address = (uint64_t)(uintptr_t)section_address(l, s) + sym.st_value;
    return true;
}

static bool store32(uint8_t *at, uint64_t value, bool is_signed)
{
    uint64_t back = is_signed ? (uint64_t)(int64_t)(int32_t)(uint32_t)value : (uint32_t)value;
    uint32_t low = (uint32_t)value;
    memcpy(at, &low, 4);
    return back == value;
}

/* One relocation: S + A, minus P for the relative ones; through a slot for the GOT forms. */
static bool relocate(Loader *l, Object *o, const Section *s, const Elf64_Rela *r, size_t *slot, Err *err)
{
    uint32_t type = ELF64_R_TYPE(r->r_info);
    bool wide = type == R_X86_64_64 || type == R_X86_64_PC64;
    if (type == R_X86_64_NONE)
        return true;
    if (r->r_offset > s->h.sh_size || s->h.sh_size - r->r_offset < (wide ? 8u : 4u))
        return fail(o, err, "a relocation lies outside of its section");
    uint64_t symbol = 0;
    if (!symbol_address(l, o, ELF64_R_SYM(r->r_info), &symbol, err))
        return false;
    uint8_t *at = section_address(l, s) + r->r_offset;
    uint64_t addend = (uint64_t)r->r_addend, place = (uint64_t)(uintptr_t)at, value = symbol + addend;
    bool fits = true;
    switch (type) {
    case R_X86_64_PC64: value -= place; /* fall through */
    case R_X86_64_64: memcpy(at, &value, 8); break;
    case R_X86_64_PC32:
    case R_X86_64_PLT32: fits = store32(at, value - place, true); break;
    case R_X86_64_32: fits = store32(at, value, false); break;
    case R_X86_64_32S: fits = store32(at, value, true); break;
    case R_X86_64_GOTPCREL:
    case R_X86_64_GOTPCRELX:
    case R_X86_64_REX_GOTPCRELX: {
        uint8_t *entry = l->base + l->text + o->slot_offset + 8 * (*slot)++;
        memcpy(entry, &symbol, 8);
        fits = store32(at, (uint64_t)(uintptr_t)entry + addend - place, true);
        break;
    }
    default: return err_set(err, "object '%s': relocation type %u is not supported", o->src->name, type);
    }
    return fits || fail(o, err, "a relocation does not reach");
}

static bool relocate_all(Loader *l, Object *o, Err *err)
{
    size_t slot = 0;
    for (size_t i = 0; i < o->count; i++) {
        const Section *r = &o->sections[i], *s = relocated(o, r);
        Elf64_Rela rela;
        for (uint64_t k = 0; s && k < r->h.sh_size / sizeof rela; k++)
            if (!fetch_rela(o, r, k, &rela) || !relocate(l, o, s, &rela, &slot, err))
                return false;
    }
    return true;
}

static bool find_entry(const Loader *l, const Object *o, void **entry, Err *err)
{
    Elf64_Sym sym;
    for (uint64_t i = 0; fetch_symbol(o, i, &sym); i++) {
        if (sym.st_shndx == SHN_UNDEF || sym.st_shndx >= o->count || strcmp(symbol_name(o, &sym), o->src->symbol))
            continue;
        const Section *s = &o->sections[sym.st_shndx];
        if (!s->keep || !is_text(s) || sym.st_value >= s->h.sh_size)
            continue;
        *entry = section_address(l, s) + sym.st_value;
        return true;
    }
    return err_set(err, "object '%s': no function '%s'", o->src->name, o->src->symbol);
}

/* ---- the whole ------------------------------------------------------------------------------------------------ */

static bool protect(const Loader *l, const ObjectCode *code, Err *err)
{
    if (mprotect(l->base, l->text, PROT_READ | PROT_EXEC) < 0 ||
        (code->size > l->text && mprotect(l->base + l->text, code->size - l->text, PROT_READ) < 0))
        return err_set(err, "cannot make kernels executable: %s", strerror(errno));
    __builtin___clear_cache((char *)l->base, (char *)l->base + l->text);
    return true;
}

static bool load(Loader *l, Arena *a, const ObjectSource *src, void **entries, ObjectCode *code, Err *err)
{
    for (size_t i = 0; i < l->count; i++) {
        l->objects[i].src = &src[i];
        if (!read_sections(&l->objects[i], a, err))
            return false;
        collect_outside(l, &l->objects[i]);
    }
    l->text = l->outside.len * STUB_BYTES;
    l->data = l->outside.len * 8;
    for (size_t i = 0; i < l->count; i++)
        if (!measure(l, &l->objects[i], err))
            return false;
    if (!map_memory(l, code, err))
        return false;
    write_stubs(l);
    for (size_t i = 0; i < l->count; i++) {
        Object *o = &l->objects[i];
        for (size_t k = 0; k < o->count; k++)
            if (o->sections[k].keep)
                memcpy(section_address(l, &o->sections[k]), o->src->data + o->sections[k].h.sh_offset,
                       (size_t)o->sections[k].h.sh_size);
        if (!relocate_all(l, o, err) || !find_entry(l, o, &entries[i], err))
            return false;
    }
    return protect(l, code, err);
}

bool object_load_with(const ObjectSource *sources, size_t count, ObjectResolver *resolve, void **entries,
                      ObjectCode *code, Err *err)
{
    *code = (ObjectCode){0};
    Arena *a = arena_new();
    Loader l = {.objects = arena_array(a, Object, count), .count = count, .resolve = resolve};
    bool ok = load(&l, a, sources, entries, code, err);
    if (!ok)
        object_unload(code);
    vec_free(&l.outside);
    arena_free(a);
    return ok;
}

bool object_load(const ObjectSource *sources, size_t count, void **entries, ObjectCode *code, Err *err)
{
    return object_load_with(sources, count, NULL, entries, code, err);
}

void object_unload(ObjectCode *code)
{
    if (code->size)
        munmap(code->memory, code->size);
    *code = (ObjectCode){0};
}
