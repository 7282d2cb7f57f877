/* emit.c - see emit.h. Tools are looked for when they are needed: in the environment's BLADE_PTXAS and BLADE_LLD (a
 * path), in PATH, and where the vendors' packages put them. */
#include "emit.h"
#include "../child.h"

#include <elf.h>
#include <llvm-c/Disassembler.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 4096, SECONDS = 60 };

static bool find_ptxas(char path[PATH_BYTES])
{
    static const char *const names[] = {"ptxas", "/usr/local/cuda/bin/ptxas", NULL};
    return child_find("BLADE_PTXAS", names, path, PATH_BYTES);
}

static bool find_lld(char path[PATH_BYTES])
{
    static const char *const names[] = {"ld.lld-19", "/usr/lib/llvm-19/bin/ld.lld", "ld.lld",
                                        "/opt/rocm/llvm/bin/ld.lld", NULL};
    return child_find("BLADE_LLD", names, path, PATH_BYTES);
}

static bool find_nvdisasm(char path[PATH_BYTES])
{
    static const char *const names[] = {"nvdisasm", "/usr/local/cuda/bin/nvdisasm", NULL};
    return child_find(NULL, names, path, PATH_BYTES);
}

/* What `ptxas --version` says, asked once: the file may be a script, which stays when what it calls changes. */
static void put_version(const char *path, const char *identity, Buf *out)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char asked[PATH_BYTES], version[512];
    pthread_mutex_lock(&lock);
    if (strncmp(asked, identity, sizeof asked - 1)) {
        Child c = {.argv = {path, "--version"}, .seconds = 10};
        Buf words = {0};
        child_run(&c, NULL, &words, NULL);
        snprintf(version, sizeof version, "%s", words.data ? words.data : "");
        snprintf(asked, sizeof asked, "%s", identity);
        buf_free(&words);
    }
    buf_puts(out, version);
    pthread_mutex_unlock(&lock);
}

void gpu_tools(const Target *t, Buf *out)
{
    char path[PATH_BYTES];
    Buf identity = {0};
    if (!(t->gpu->nvidia ? find_ptxas(path) : find_lld(path)))
        buf_puts(&identity, "none");
    else
        child_identity(path, &identity);
    buf_printf(out, "%s %s\n", t->gpu->nvidia ? "ptxas" : "ld.lld", identity.data);
    if (t->gpu->nvidia && strcmp(identity.data, "none"))
        put_version(path, identity.data, out);
    buf_free(&identity);
}

/* ---- NVIDIA ----------------------------------------------------------------------------------------------------- */

/* Copies `text` with the rest of the line behind `key` replaced. */
static void replace_line(const Buf *text, const char *key, const char *value, Buf *out)
{
    const char *all = text->data ? text->data : "", *at = strstr(all, key);
    if (!at) {
        buf_puts(out, all);
        return;
    }
    at += strlen(key);
    buf_put(out, all, (size_t)(at - all));
    buf_printf(out, " %s", value);
    buf_puts(out, at + strcspn(at, "\n"));
}

/* PTX ISA: sm_100a came with version 8.6. */
void gpu_patch_header(const Target *t, const Buf *ptx, Buf *out)
{
    Buf versioned = {0};
    if (!t->gpu->header) {
        buf_put(out, ptx->data, ptx->len);
        return;
    }
    replace_line(ptx, "\n.version", "8.6", &versioned);
    replace_line(&versioned, "\n.target", t->gpu->header, out);
    buf_free(&versioned);
}

/* "sm_80" of a target and its twin. */
static const char *architecture(const Target *t)
{
    return !strncmp(t->name, "simt:", 5) ? t->name + 5 : t->name;
}

/* A ptxas that is older than the target or the PTX: the driver will know better. */
static bool is_too_old(const char *log)
{
    return strstr(log, "is not defined for option 'gpu-name'") || strstr(log, "Unsupported .version");
}

/* Text for the driver, which wants a NUL at its end. */
static bool leave_ptx(const Kernel *k, const Target *t, const Buf *ptx, Buf *out, KernelInfo *info, Err *err)
{
    buf_put(out, ptx->data, ptx->len + 1);
    return gate_ptx(k, t, ptx->data, info, err);
}

static bool assemble(const Kernel *k, const Target *t, const Buf *ptx, Buf *out, KernelInfo *info, Err *err)
{
    char path[PATH_BYTES], arch[64];
    if (!find_ptxas(path))
        return leave_ptx(k, t, ptx, out, info, err);
    snprintf(arch, sizeof arch, "-arch=%s", architecture(t));
    Child c = {.argv = {path, "-v", arch, "-o", CHILD_OUTPUT, CHILD_INPUT}, .input = ptx->data, .input_len = ptx->len,
               .seconds = SECONDS, .again = true};
    Buf log = {0};
    bool ok = child_run(&c, out, &log, err);
    buf_reserve(&log, 1);
    log.data[log.len] = 0;
    if (!ok && is_too_old(log.data))
        ok = leave_ptx(k, t, ptx, out, info, err);
    else if (!ok)
        err_prefix(err, "kernel '%s' for %s", k->name, t->name);
    else
        ok = gate_nvidia(k, t, log.data, info, err);
    buf_free(&log);
    return ok;
}

static bool emit_nvidia(const Kernel *k, const Target *t, const Buf *from, Buf *out, KernelInfo *info, Err *err)
{
    Buf ptx = {0};
    gpu_patch_header(t, from, &ptx);
    bool ok = assemble(k, t, &ptx, out, info, err);
    buf_free(&ptx);
    return ok;
}

/* ---- AMD -------------------------------------------------------------------------------------------------------- */

static bool emit_amd(const Kernel *k, const Target *t, const Buf *from, Buf *out, KernelInfo *info, Err *err)
{
    char path[PATH_BYTES];
    if (!find_lld(path))
        return err_set(err, "code for %s needs the linker ld.lld, which is not found; install lld-19, or name one in "
                       "BLADE_LLD", t->name);
    Child c = {.argv = {path, "-shared", "-o", "-", CHILD_INPUT}, .input = from->data, .input_len = from->len,
               .to_stdout = true, .seconds = SECONDS, .again = true};
    Buf text = {0};
    bool ok = child_run(&c, out, NULL, err) && gpu_disassemble(t, out, &text, err) &&
              gate_amd_waits(text.data ? text.data : "", err);
    buf_free(&text);
    return ok ? gate_amd(k, t, out, info, err) : err_prefix(err, "kernel '%s' for %s", k->name, t->name);
}

bool gpu_emit(const Kernel *k, const Target *t, const Buf *from, Buf *out, KernelInfo *info, Err *err)
{
    return t->gpu->nvidia ? emit_nvidia(k, t, from, out, info, err) : emit_amd(k, t, from, out, info, err);
}

/* ---- disassembly ------------------------------------------------------------------------------------------------ */

static bool sass(const Target *t, const Buf *code, Buf *out, Err *err)
{
    char path[PATH_BYTES];
    if (code->len < SELFMAG || memcmp(code->data, ELFMAG, SELFMAG))
        return err_set(err, "SASS of %s needs ptxas, and one that knows it; none is found in BLADE_PTXAS, PATH and "
                       "/usr/local/cuda/bin", t->name);
    if (!find_nvdisasm(path))
        return err_set(err, "SASS needs nvdisasm of the CUDA toolkit, which is found neither in PATH nor in "
                       "/usr/local/cuda/bin; --stage asm shows PTX");
    Child c = {.argv = {path, "-c", CHILD_INPUT}, .input = code->data, .input_len = code->len, .seconds = SECONDS};
    return child_run(&c, NULL, out, err);
}

/* The section .text: what is executable. */
static bool find_text(const Buf *code, size_t *offset, size_t *size, uint64_t *address)
{
    Elf64_Shdr s;
    for (int i = 0; code_section(code, &i, &s);)
        if (s.sh_type == SHT_PROGBITS && s.sh_flags & SHF_EXECINSTR) {
            *offset = s.sh_offset;
            *size = s.sh_size;
            *address = s.sh_addr;
            return true;
        }
    return false;
}

/* What LLVM puts behind the code for the instruction fetch. */
static bool is_filling(const char *line)
{
    return strstr(line, "s_code_end") || strstr(line, "s_nop 0");
}

static void gcn_lines(LLVMDisasmContextRef d, uint8_t *at, size_t size, uint64_t address, Buf *out)
{
    char line[512];
    size_t end = out->len;
    for (size_t i = 0; i < size;) {
        size_t n = LLVMDisasmInstruction(d, at + i, size - i, address + i, line, sizeof line);
        if (!n) {
            uint32_t word = 0;
            memcpy(&word, at + i, MIN(size - i, sizeof word));
            snprintf(line, sizeof line, word ? "\t.long 0x%08x" : "\ts_code_end", word);
            n = 4;
        }
        buf_printf(out, "%6llx%s\n", (unsigned long long)(address + i), line);
        end = is_filling(line) ? end : out->len;
        i += n;
    }
    out->len = end;
    if (out->data)
        out->data[end] = 0;
}

static bool gcn(const Target *t, const Buf *code, Buf *out, Err *err)
{
    size_t offset, size;
    uint64_t address;
    if (!find_text(code, &offset, &size, &address))
        return err_set(err, "the code object for %s has no code", t->name);
    LLVMDisasmContextRef d = LLVMCreateDisasmCPUFeatures(t->triple, t->cpu, t->features, NULL, 0, NULL, NULL);
    if (!d)
        return err_set(err, "LLVM can't disassemble code for %s", t->name);
    gcn_lines(d, (uint8_t *)code->data + offset, size, address, out);
    LLVMDisasmDispose(d);
    return true;
}

bool gpu_disassemble(const Target *t, const Buf *code, Buf *out, Err *err)
{
    return t->gpu->nvidia ? sass(t, code, out, err) : gcn(t, code, out, err);
}
