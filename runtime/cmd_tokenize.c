/* cmd_tokenize.c - `blade tokenize`: text to token ids and back. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cmd.h"

#define NAME "blade tokenize"

typedef struct Flags {
    bool json, no_special, parse_special;
    OptInts decode;
} Flags;

static bool read_stdin(Buf *text, Err *err)
{
    char piece[1 << 16];
    for (size_t n; (n = fread(piece, 1, sizeof piece, stdin));)
        buf_put(text, piece, n);
    return !ferror(stdin) || err_set(err, "cannot read standard input");
}

/* A piece as the vocabulary spells it, control characters as \xNN so that each stays on its line. */
static void print_piece(const Tokenizer *t, uint32_t id)
{
    size_t len;
    const char *text = tok_text(t, id, &len);
    printf("%8" PRIu32 "\t", id);
    for (size_t i = 0; text && i < len; i++)
        printf((unsigned char)text[i] < 0x20 || text[i] == 0x7f ? "\\x%02x" : "%c", (unsigned char)text[i]);
    putchar('\n');
}

static void print_tokens(const Tokenizer *t, const TokenIds *ids, bool json)
{
    if (!json) {
        for (size_t i = 0; i < ids->len; i++)
            print_piece(t, ids->at[i]);
        return;
    }
    json_t *numbers = json_array(), *pieces = json_array();
    for (size_t i = 0; i < ids->len; i++) {
        size_t len = 0;
        const char *text = tok_text(t, ids->at[i], &len);
        json_array_append_new(numbers, json_integer(ids->at[i]));
        json_array_append_new(pieces, cmd_json_text(text ? text : "", len));
    }
    cmd_print_json(json_pack("{s:o,s:o}", "token_ids", numbers, "tokens", pieces));
}

static void print_decoded(const Tokenizer *t, const Flags *f)
{
    TokenIds ids = {0};
    for (size_t i = 0; i < f->decode.len; i++)
        vec_push(&ids, (uint32_t)f->decode.at[i]);
    Buf text = {0};
    buf_reserve(&text, 1);
    tok_decode(t, ids.at, ids.len, f->no_special, &text);
    if (f->json) {
        cmd_print_json(json_pack("{s:o}", "text", cmd_json_text(text.data, text.len)));
    } else {
        fwrite(text.data, 1, text.len, stdout);
        putchar('\n');
    }
    buf_free(&text);
    vec_free(&ids);
}

static bool tokenize(const Tokenizer *t, const Flags *f, const char *arg, Err *err)
{
    Buf text = {0};
    TokenIds ids = {0};
    buf_reserve(&text, 1);
    bool ok = true;
    if (arg && strcmp(arg, "-"))
        buf_puts(&text, arg);
    else
        ok = read_stdin(&text, err);
    ok = ok && tok_encode(t, text.data, text.len, !f->no_special, f->parse_special, &ids, err);
    if (ok)
        print_tokens(t, &ids, f->json);
    buf_free(&text);
    vec_free(&ids);
    return ok;
}

int cmd_tokenize(int argc, char **argv)
{
    Flags f = {0};
    const OptRow rows[] = {
        {"json", 0, OPT_FLAG, &f.json, NULL, "print {\"token_ids\": [...], \"tokens\": [...]}"},
        {"decode", 0, OPT_INTS, &f.decode, "ID,ID", "print the text of these token ids instead", 0, INT32_MAX},
        {"no-special", 0, OPT_FLAG, &f.no_special, NULL,
         "add no special tokens such as BOS;\nwith --decode: leave out their text"},
        {"parse-special", 0, OPT_FLAG, &f.parse_special, NULL, "special tokens written in the text become tokens"},
        {NULL},
    };
    const OptCommand command = {
        NAME, "MODEL [TEXT | -]",
        "Prints the token ids of a text (\"-\" or none: standard input) and how the vocabulary spells them.",
        1, 2, rows,
    };
    const char *args[OPT_MAX_ARGS];
    int status = opt_parse(&command, argc, argv, args);
    if (status >= 0)
        return status;
    Err err = {0};
    Tokenizer *t = tok_load(args[0], &err);
    bool ok = t != NULL;
    if (ok && f.decode.len)
        print_decoded(t, &f);
    else if (ok)
        ok = tokenize(t, &f, args[1], &err);
    ok = ok && cmd_flush(&err);
    tok_free(t);
    vec_free(&f.decode);
    return ok ? 0 : cmd_fail(NAME, &err);
}
