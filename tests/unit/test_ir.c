/* Tests of the tile IR: builders (ir.c), text form (print.c, parse.c), verifier (check.c, writes.c), numerics rule
 * (numerics.c). tests/ir/NAME.tile are whole kernels in the form that print.c writes; tests/ir/cases.txt holds what is
 * refused, beside what is close to it and accepted. */
#include "test.h"

#include "ir.h"

#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IR_DIR SOURCE_DIR "/tests/ir"

static bool verify(const Kernel *k, Err *err)
{
    return ir_check(k, err) && ir_check_numerics(k, err);
}

static Kernel *parse(const char *text, Err *err)
{
    return ir_parse(text, strlen(text), "t", err);
}

/* Fails the test, with both texts, unless printing the kernel gives `expected`. */
static void expect_print(const Kernel *k, const char *expected)
{
    Buf out = {0};
    ir_print(k, &out);
    assert_string_equal(out.data, expected);
    buf_free(&out);
}

/* ---- whole kernels ----------------------------------------------------------------------------------------------- */

static void without_comment_lines(const char *text, Buf *out)
{
    buf_puts(out, "");
    for (const char *end; *text; text = end) {
        end = strchr(text, '\n');
        end = end ? end + 1 : text + strlen(text);
        if (*text != ';')
            buf_put(out, text, (size_t)(end - text));
    }
}

static int each_kernel(void (*fn)(const char *name, const char *text, Kernel *k))
{
    int count = 0;
    DIR *d = opendir(IR_DIR);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name);
        if (n < 5 || strcmp(e->d_name + n - 5, ".tile"))
            continue;
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", IR_DIR, e->d_name);
        Buf text = {0};
        Err err = {0};
        assert_true(file_read(&text, path, 1 << 20, &err));
        Kernel *k = ir_parse(text.data, text.len, e->d_name, &err);
        assert_string_equal(err.text, "");
        fn(e->d_name, text.data, k);
        kernel_free(k);
        buf_free(&text);
        count++;
    }
    closedir(d);
    return count;
}

static void round_trip(const char *name, const char *text, Kernel *k)
{
    (void)name;
    Buf plain = {0};
    without_comment_lines(text, &plain);
    expect_print(k, plain.data);
    buf_free(&plain);
}

static void files_round_trip(void **state)
{
    (void)state;
    assert_true(each_kernel(round_trip) >= 9);
}

static void accept(const char *name, const char *text, Kernel *k)
{
    (void)name, (void)text;
    Err err = {0};
    verify(k, &err);
    assert_string_equal(err.text, "");
}

static void files_are_accepted(void **state)
{
    (void)state;
    assert_true(each_kernel(accept) >= 9);
}

static bool used[OP_COUNT];

static void mark_ops(const char *name, const char *text, Kernel *k)
{
    (void)name, (void)text;
    for (size_t r = 1; r < k->ins.len; r++)
        used[k->ins.at[r].op] = true;
}

static void files_cover_every_operation(void **state)
{
    (void)state;
    each_kernel(mark_ops);
    for (int op = 1; op < OP_COUNT; op++)
        if (!used[op])
            fail_msg("no kernel in tests/ir uses '%s'", op_info[op].text);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

typedef struct Case {
    char *expect; /* part of the message; NULL: accepted */
    Buf text;
    int line; /* in cases.txt */
} Case;

/* Splits cases.txt; the first block is the prelude. */
static Case *read_cases(int *count)
{
    Buf file = {0};
    Err err = {0};
    assert_true(file_read(&file, IR_DIR "/cases.txt", 1 << 20, &err));
    Case *cases = NULL;
    *count = 0;
    int line = 0;
    for (char *at = file.data, *next; *at; at = next) {
        next = at + strcspn(at, "\n");
        bool more = *next;
        *next = 0;
        line++;
        if (!strncmp(at, "## ", 3)) {
            cases = xrealloc(cases, sizeof *cases * (size_t)(*count + 1));
            bool refuse = !strncmp(at + 3, "refuse: ", 8);
            assert_true(refuse || !strncmp(at + 3, "accept: ", 8) || !strcmp(at + 3, "prelude"));
            cases[(*count)++] = (Case){.expect = refuse ? xstrdup(at + 11) : NULL, .line = line};
        } else if (*count && *at != '#') {
            buf_printf(&cases[*count - 1].text, "%s\n", at);
        }
        next += more;
    }
    buf_free(&file);
    return cases;
}

/* True when the case comes out as it says; else prints what happened. */
static bool run_case(const Case *prelude, const Case *c)
{
    Buf text = {0};
    Err err = {0};
    if (strncmp(c->text.data, "kernel", 6))
        buf_puts(&text, prelude->text.data);
    buf_puts(&text, c->text.data);
    Kernel *k = ir_parse(text.data, text.len, "t", &err);
    bool ok = k && verify(k, &err);
    bool good = k && ok == !c->expect && (ok || strstr(err.text, c->expect));
    if (!good)
        print_error("cases.txt:%d: expected '%s', got '%s'\n", c->line, c->expect ? c->expect : "accepted",
                    ok ? "accepted" : err.text);
    kernel_free(k);
    buf_free(&text);
    return good;
}

static void verifier_refuses_and_accepts(void **state)
{
    (void)state;
    int count;
    Case *cases = read_cases(&count);
    assert_true(count > 100);
    int bad = 0;
    for (int i = 1; i < count; i++)
        bad += !run_case(&cases[0], &cases[i]);
    for (int i = 0; i < count; i++) {
        free(cases[i].expect);
        buf_free(&cases[i].text);
    }
    free(cases);
    assert_int_equal(bad, 0);
}

static void messages_name_the_place(void **state)
{
    (void)state;
    Err err = {0};
    Kernel *k = parse("kernel \"k\"\n%1 = const 1 : s64\ngrid %1\n"
                      "%2 = frag flat : f32\n%3 = neg %2 ; norm.lua:31\n", &err);
    assert_non_null(k);
    assert_false(ir_check(k, &err));
    assert_string_equal(err.text, "norm.lua:31: 'neg': reads a frag that is not set on every path to here; "
                                  "set it first (to 0 for a sum)");
    ir_at(k, 3)->loc = (Loc){0};
    assert_false(ir_check(k, &err));
    assert_ptr_equal(strstr(err.text, "kernel \"k\", %3: 'neg': reads"), err.text);
    ir_at(k, 3)->loc = (Loc){k->source, 5};
    assert_false(ir_check(k, &err));
    assert_ptr_equal(strstr(err.text, "t:5: 'neg': reads"), err.text);
    kernel_free(k);
}

/* A pass may write instructions itself; the verifier sees through wrong types and operands. */
static void damaged_kernels_are_refused(void **state)
{
    (void)state;
    static const char text[] = "kernel \"k\"\n%1 = const 1 : s64\ngrid %1\n%2 = const 2 : s64\n%3 = add %1, %2\n";
    for (int damage = 0; damage < 5; damage++) {
        Err err = {0};
        Kernel *k = parse(text, &err);
        assert_non_null(k);
        assert_true(ir_check(k, &err));
        Ins *i = ir_at(k, 3);
        switch (damage) {
        case 0: i->arg[1] = 3; break;
        case 1: i->arg[0] = 0; break;
        case 2: i->type.cols = 16; break;
        case 3: i->nargs = 1; break;
        case 4: i->op = OP_NONE; break;
        }
        assert_false(ir_check(k, &err));
        assert_true(strlen(err.text) > 20);
        kernel_free(k);
    }
}

/* ---- the text form ----------------------------------------------------------------------------------------------- */

static void parser_refuses(void **state)
{
    (void)state;
#define K "kernel \"k\"\n"
#define M K "%1 = memory global 0 in f32 x[8, 64]\n%2 = const 0 : s64\n"
    static const struct { const char *text, *expect; } cases[] = {
        {"", "t:1: the text must begin with: kernel \"name\""},
        {"%1 = const 1 : s64\n", "t:1: the text must begin with"},
        {"; only a comment", "the text must begin with"},
        {"kernel", "t:1: expected '\"' before the end of the line"},
        {"kernel \"a", "t:1: the string does not end on this line"},
        {"kernel \"\\q\"", "unknown escape"},
        {"kernel \"\\x0\"", "two hexadecimal digits"},
        {"kernel \"\\x00\"", "no zero byte"},
        {K "kernel \"k\"\n", "t:2: unknown operation 'kernel'"},
        {K "\n\nfoo", "t:4: unknown operation 'foo'"},
        {K "%1 = const 1 : s64 junk", "t:2: expected the end of the line, found 'j'"},
        {K "%1 = const 1", "t:2: expected ': type' before the end of the line"},
        {K "%1 = const : s64", "expected a number, found ':'"},
        {K "%1 = const 1.5 : s64", "'1.5' is not an integer of 64 bits"},
        {K "%1 = const 9223372036854775808 : s64", "is not an integer of 64 bits"},
        {K "%1 = const x : f32", "'x' is not a number"},
        {K "%1 = const 1 : f31", "unknown element type 'f31'"},
        {K "%1 = const 1 : s64[1,2]", "'const' gives s64[1,1], the line says s64[1,2]"},
        {K "%1 = frag acc : f32[65536,2]", "a tile has at most 65536 elements"},
        {K "%1 = frag wide : f32", "unknown fragment class 'wide'; one of flat, acc, a, b, rows, cols"},
        {K "%1 = size nothing", "unknown run-time size 'nothing'; one of tokens"},
        {K "%1 = block 3", "3 is not in 0..2"},
        {K "%1 = neg %1", "t:2: %1 is used before it is defined"},
        {K "%0 = row : s32", "0 is not in 1..65535"},
        {K "%65536 = row : s32", "65536 is not in 1..65535"},
        {K "%99999999999999999999 = row : s32", "number too large"},
        {K "%1 = row : s32\n%1 = row : s32", "t:3: %1 is defined twice"},
        {K "row : s32", "the result of 'row' needs a name"},
        {K "%1 = end", "'end' has no result to name"},
        {K "%1 = const 1 : s64\ngrid %1\ngrid %1", "t:4: the grid is given twice"},
        {K "%1 = const 1 : s64\ngrid %1, %1, %1, %1", "more than 3 operands"},
        {K "\x01", "found byte 0x01"},
        {K "%1 = memory local f32 x[1]", "unknown memory space 'local'; one of global, shared"},
        {K "%1 = memory global 0 up f32 x[1]", "unknown access 'up'"},
        {K "%1 = memory global 0 in f32 x[]", "expected a run-time size"},
        {K "%1 = memory global 0 in f32 x[0]", "0 is not in 1.."},
        {K "%1 = memory global 0 in f32 x[1,2,3,4,5,6]", "more than 5 dimensions"},
        {K "%1 = memory global 0 in f32 x", "expected '['"},
        {M "%3 = view %1[%2] 1x16", "t:4: 'x' has 2 dimensions, the view gives 1 coordinates"},
        {M "%3 = view %2[%2, %2] 1x16", "t:4: a view needs an argument or a shared tile, not the result of 'const'"},
        {M "%3 = view %1[%2, %2] 0x16", "0 is not in 1.."},
        {M "%3 = view %1[%2, %1] 1x16", "operand 3 ('memory') has no value"},
        {M "%3 = load %1", "operand 1 must be a view"},
        {M "%3 = view %1[%2, %2] 1x16\n%4 = neg %3", "t:5: 'neg': operand 1 is a view; load it first"},
        {M "%3 = view %1[%2, %2] 1x16\n%4 = load %3 : f32[1,8]", "'load' gives f32[1,16], the line says f32[1,8]"},
        {M "%3 = view %1[%2, %2] 1x16\n%4 = load %3\n%5 = add %4, %2", "'add' mixes f32 and s64; cast one of them"},
        {M "%3 = view %1[%2, %2] 1x16\n%4 = load %3\n%5 = slice %4[0, 8] : f32[1,16]", "leaves the 1 x 16 tile"},
        {M "%3 = view %1[%2, %2] 1x16\n%4 = const 0 : f32\nstore %3, %4", "'store': 'x' is an input"},
        {M "%3 = view %1[%2, %2] 512x512\n%4 = load %3", "more than 65536 elements; use smaller tiles"},
        {M "%3 = loop %2, %2 step 0", "0 is not in 1.."},
        {M "%3 = loop %2, %2", "expected 'step'"},
        {M "%3 = reduce mean cols %2", "unknown reduction 'mean'; one of add, max, min"},
        {M "%3 = loop %2, %2 step x", "expected a number, found 'x'"},
        {M "%3 = loop %2, %2 step 1 pipelined 65", "65 is not in 1..64"},
        {K "%1 = const 0000000000000000000000000000000000000000000000000000000000000001 : s64", "number too long"},
        {K "%1 = const 1 : 5", "expected an element type, found '5'"},
        {K "%1 = memory shared f32 5[1]", "expected '\"', found '5'"},
        {K "%1 = memory shared f32 x[8, 16] panel 65", "65 is not in 1..64"},
        {M "%3 = view %1[%2, %2] 1x16777217", "16777217 is not in 1..16777216"},
        {M "%3 = const 0 : f32\n%4 = view %1[%3, %2] 1x16", "view of 'x': coordinate 1 is not an integer scalar"},
        {K "%1 = memory shared f32 v[8]\n%2 = const 0 : s64\n%3 = view %1[%2] 2x4", "has no rows"},
        {K "%1 = memory shared f32 v[8]\n%2 = const 0 : s64\n%3 = view %1[%2] 1x4 transposed", "has no rows"},
        {K "%1 = row : s32[4,1]\n%2 = row : s32[8,1]\n%3 = add %1, %2", "'add' of a 4 x 1 and a 8 x 1 tile"},
        {K "%1 = row : s32[4,1]\n%2 = row : s32[8,1]\n%3 = join %1, %2", "'join' of 4 and 8 rows"},
        {K "%1 = row : s32[4,1]\n%2 = const 0 : f32\n%3 = join %1, %2", "'join' mixes s32 and f32"},
        {K "%1 = row : s32[4,1]\n%2 = select %1, %1, %1", "'select' needs a predicate first, not s32"},
        {K "%1 = row : s32[4,1]\n%2 = reshape %1 : s32[2,4]", "'reshape' from 4 x 1 to 2 x 4; all four must be powers"},
        {K "%1 = row : s32[6,1]\n%2 = reshape %1 : s32[2,3]", "'reshape' from 6 x 1 to 2 x 3; all four must be powers"},
        {K "%1 = const 0 : f32\n%2 = scan %1", "'scan' of f32; only sums of integers"},
        {K "%1 = row : s32[4,1]\n%2 = bitcast %1 : f64[4,1]", "'bitcast' from s32 to f64 changes the size"},
        {K "%1 = row : s32[4,1]\nset %1, %1", "'set': operand 1 must be a frag"},
        {K "%1 = row : s32[4,1]\n%2 = frag flat : f32[4,1]\nset %2, %1", "'set': s32 into f32; cast first"},
        {K "%1 = row : s32[4,1]\n%2 = frag flat : s32[2,1]\nset %2, %1", "'set': a 4 x 1 tile into 2 x 1"},
        {M "%3 = frag acc : f32[1,16]\n%4 = view %1[%2, %2] 1x16\ngemm %3, %4, %4",
         "'gemm': [1,16] += [1,16] x [1,16] does not fit"},
        {M "%3 = view %1[%2, %2] 1x1\ngemm %2, %3, %3", "'gemm': operand 1 must be a frag"},
        {M "%3 = view %1[%2, %2] 1x1\n%4 = gather %3, %2", "'gather' needs s32 indices, not s64"},
        {K "%1 = row : s32[4,1]\n%2 = loop %1, %1 step 1", "'loop': bounds must be s64 scalars"},
        {K "%1 = row : s32[4,1]\nwhen %1", "'when' needs a scalar predicate"},
        {K "%1 = row : s32[4,1]\n%2 = add %1", "'add' takes 2 operands, not 1"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        Err err = {0};
        Kernel *k = parse(cases[i].text, &err);
        if (k)
            fail_msg("case %zu parses: %s", i, cases[i].text);
        if (!strstr(err.text, cases[i].expect))
            fail_msg("case %zu: expected '%s', got '%s'", i, cases[i].expect, err.text);
    }
}

/* Free numbering, spacing and comments become the one form that print.c writes. */
static void text_becomes_canonical(void **state)
{
    (void)state;
    Err err = {0};
    Kernel *k = parse("; a comment\n\n kernel   \"a \\\"b\\\" \\x09\"numerics segment 512 ; h.lua:1 is nothing\r\n"
              "%700=const 4:s64;norm.lua:7\n"
              "%3 = memory shared f32 \"my tile\"[1*tokens,16] ; see norm.lua: 8\n"
              "%4 = memory global 1 in bf16 t.0[3 * kv_pages, 16]pitch 20\n"
              "%9 = view %4 [%700,%700]1x16 inside\n"
              "grid %700\n"
              "prefetch %9 ; a/b.lua:12", &err);
    assert_string_equal(err.text, "");
    expect_print(k, "kernel \"a \\\"b\\\" \\x09\" numerics segment 512\n"
                    "%1 = const 4 : s64                                       ; norm.lua:7\n"
                    "grid %1\n"
                    "%2 = memory shared f32 \"my tile\"[tokens, 16]\n"
                    "%3 = memory global 1 in bf16 t.0[3*kv_pages, 16] pitch 20\n"
                    "%4 = view %3[%1, %1] 1x16 inside\n"
                    "prefetch %4                                              ; a/b.lua:12\n");
    assert_string_equal(k->name, "a \"b\" \t");
    assert_string_equal(ir_at(k, 1)->loc.file, "norm.lua");
    assert_int_equal(ir_at(k, 1)->loc.line, 7);
    assert_string_equal(ir_at(k, 2)->loc.file, "t");
    assert_int_equal(ir_at(k, 2)->loc.line, 5);
    kernel_free(k);
}

static uint64_t next_random(uint64_t *s)
{
    *s ^= *s << 13, *s ^= *s >> 7, *s ^= *s << 17;
    return *s;
}

static void numbers_keep_every_bit(void **state)
{
    (void)state;
    static const double special[] = {0.0, -0.0, 1.0 / 3, 0.1f, 5e-324, 1.7976931348623157e308, INFINITY, -INFINITY};
    static const int64_t integers[] = {0, -1, INT64_MAX, INT64_MIN};
    Kernel *k = kernel_new("numbers");
    uint64_t seed = 7;
    for (size_t i = 0; i < 20000; i++) {
        uint64_t bits = next_random(&seed);
        double v;
        memcpy(&v, &bits, sizeof v);
        ir_const_float(k, DT_F64, i < COUNT(special) ? special[i] : isnan(v) ? 0.5 : v, (Loc){0});
    }
    for (size_t i = 0; i < COUNT(integers); i++)
        ir_const_int(k, DT_S64, integers[i], (Loc){0});
    ir_const_float(k, DT_F32, NAN, (Loc){0});
    Buf out = {0};
    Err err = {0};
    ir_print(k, &out);
    Kernel *back = ir_parse(out.data, out.len, "t", &err);
    assert_string_equal(err.text, "");
    assert_int_equal(back->ins.len, k->ins.len);
    for (size_t r = 1; r < k->ins.len - 1; r++)
        if (ir_at(back, (Ref)r)->integer != ir_at(k, (Ref)r)->integer)
            fail_msg("number %zu: %.17g became %.17g", r, ir_at(k, (Ref)r)->number, ir_at(back, (Ref)r)->number);
    assert_true(isnan(ir_at(back, (Ref)k->ins.len - 1)->number));
    kernel_free(back);
    kernel_free(k);
    buf_free(&out);
}

/* An unfinished kernel, with a location whose name has a space, as `show` may print it after an error. */
static void unchecked_kernels_print(void **state)
{
    (void)state;
    Err err = {0};
    Kernel *k = kernel_new("half");
    Loc loc = {"my file.lua", 3};
    Ref zero = ir_const_int(k, DT_S64, 0, loc);
    ir_add(k, &(Ins){.op = OP_END}, &err);
    ir_add(k, &(Ins){.op = OP_LOOP, .nargs = 2, .arg = {zero, zero}, .integer = 4, .a = LOOP_PIPELINED, .b = 2}, &err);
    ir_add(k, &(Ins){.op = OP_ELSE}, &err);
    ir_const_float(k, DT_F32, 0.1f, (Loc){0});
    static const char text[] = "kernel \"half\"\n"
                               "%1 = const 0 : s64                                       ; my?file.lua:3\n"
                               "end\n"
                               "%3 = loop %1, %1 step 4 pipelined 2\n"
                               "else\n"
                               "  %5 = const 0.10000000149011612 : f32\n";
    expect_print(k, text);
    kernel_free(k);
    k = parse(text, &err);
    assert_string_equal(err.text, "");
    expect_print(k, text);
    kernel_free(k);
}

static void nested_too_deep(void **state)
{
    (void)state;
    for (int depth = MAX_DEPTH; depth <= 5000; depth += 4968) {
        Buf text = {0};
        Err err = {0};
        buf_puts(&text, "kernel \"deep\"\n%1 = const 1 : s64\ngrid %1\n%2 = lt %1, %1\n");
        for (int i = 0; i < depth; i++)
            buf_puts(&text, "when %2\n");
        for (int i = 0; i < depth; i++)
            buf_puts(&text, "end\n");
        Kernel *k = ir_parse(text.data, text.len, "t", &err);
        assert_non_null(k);
        bool ok = verify(k, &err);
        assert_int_equal(ok, depth <= MAX_DEPTH);
        if (!ok)
            assert_non_null(strstr(err.text, "t:37: 'when': more than 32 regions inside each other"));
        Buf out = {0};
        ir_print(k, &out);
        assert_true(out.len < 1 << 20); /* indentation stops */
        buf_free(&out);
        buf_free(&text);
        kernel_free(k);
    }
}

static void instruction_limit(void **state)
{
    (void)state;
    Buf text = {0};
    Err err = {0};
    buf_puts(&text, "kernel \"long\"\n");
    for (int i = 1; i < MAX_INS; i++)
        buf_puts(&text, "end\n");
    Kernel *k = ir_parse(text.data, text.len, "t", &err);
    assert_non_null(k);
    ir_add(k, &(Ins){.op = OP_END}, &err);
    assert_false(ir_check(k, &err));
    assert_non_null(strstr(err.text, "more than 65535 instructions; unroll less"));
    kernel_free(k);
    buf_puts(&text, "end\n");
    assert_null(ir_parse(text.data, text.len, "t", &err));
    assert_string_equal(err.text, "t:65537: more than 65535 instructions");
    buf_free(&text);
}

/* ---- builders and facts ------------------------------------------------------------------------------------------ */

static void tiles_have_a_limit(void **state)
{
    (void)state;
    Err err = {0};
    Kernel *k = kernel_new("grow");
    Ref tile = ir_leaf(k, OP_COL, (Type){DT_S32, 1, 16}, 0, 0, (Loc){0});
    int steps = 0;
    for (Ref wider; (wider = ir_add(k, &(Ins){.op = OP_JOIN, .nargs = 2, .arg = {tile, tile}}, &err)); steps++)
        tile = wider;
    assert_int_equal(steps, 12); /* 16 * 2^12 = MAX_TILE */
    assert_non_null(strstr(err.text, "more than 65536 elements"));
    Ref row = ir_leaf(k, OP_ROW, (Type){DT_S32, 65536, 1}, 0, 0, (Loc){0});
    assert_int_equal(ir_add(k, &(Ins){.op = OP_ADD, .nargs = 2, .arg = {row, tile}}, &err), 0);
    Ins slice = {.op = OP_SLICE, .nargs = 1, .arg = {tile}, .type = {DT_S32, 1, 1}, .pos = {0, INT32_MAX}};
    assert_int_equal(ir_add(k, &slice, &err), 0);
    kernel_free(k);
}

static Ref binary(Kernel *k, Op op, Ref a, Ref b)
{
    return ir_add(k, &(Ins){.op = op, .nargs = 2, .arg = {a, b}}, NULL);
}

static void facts_are_true(void **state)
{
    (void)state;
    Kernel *k = kernel_new("facts");
    Loc at = {0};
    Ref size = ir_leaf(k, OP_SIZE, (Type){DT_S64, 1, 1}, SIZE_TOKENS, 0, at);
    Ref c16 = ir_const_int(k, DT_S64, 16, at), c24 = ir_const_int(k, DT_S64, 24, at);
    Ref zero = ir_const_int(k, DT_S64, 0, at), lowest = ir_const_int(k, DT_S64, INT64_MIN, at);
    Ref minus = ir_const_int(k, DT_S64, -3, at);
    k->grid[0] = c24;
    k->grid_rank = 1;
    Ref block = ir_leaf(k, OP_BLOCK, (Type){DT_S64, 1, 1}, 0, 0, at);
    Ref scaled = binary(k, OP_MUL, block, c16), moved = binary(k, OP_ADD, scaled, c24);
    Ref loop = ir_add(k, &(Ins){.op = OP_LOOP, .nargs = 2, .arg = {c16, c24}, .integer = 5}, NULL);
    assert_int_equal(ir_divisor(k, zero), 0);
    assert_int_equal(ir_divisor(k, scaled), 16);
    assert_int_equal(ir_divisor(k, moved), 8);
    assert_int_equal(ir_divisor(k, size), 1);
    assert_int_equal(ir_divisor(k, lowest), 1);
    assert_int_equal(ir_divisor(k, loop), 1);
    assert_int_equal(ir_divisor(k, binary(k, OP_SHL, block, c16)), 1 << 16);
    assert_int_equal(ir_divisor(k, binary(k, OP_SHL, block, minus)), 1);
    assert_int_equal(ir_upper(k, block), 23);
    assert_int_equal(ir_upper(k, moved), 23 * 16 + 24);
    assert_int_equal(ir_upper(k, loop), 21);
    assert_true(ir_upper(k, size) == INT64_MAX);
    assert_int_equal(ir_upper(k, binary(k, OP_REM, size, c16)), 15);
    assert_int_equal(ir_upper(k, binary(k, OP_DIV, moved, c16)), (23 * 16 + 24) / 16);
    Ref narrow = ir_add(k, &(Ins){.op = OP_CAST, .type = {.elem = DT_S32}, .nargs = 1, .arg = {scaled}}, NULL);
    assert_int_equal(ir_upper(k, narrow), 23 * 16);
    assert_int_equal(ir_divisor(k, narrow), 16);
    assert_int_equal(ir_upper(k, binary(k, OP_MIN, size, c16)), 16);
    assert_true(ir_upper(k, binary(k, OP_MAX, size, c16)) == INT64_MAX);
    assert_true(ir_upper(k, binary(k, OP_MUL, block, minus)) == INT64_MAX); /* not -69: the block may be 0 */
    assert_true(ir_upper(k, binary(k, OP_ADD, lowest, minus)) == INT64_MAX);
    kernel_free(k);
}

/* x + x, 40 times over: 2^40 paths. A grid that depends on its own block index: endless ones. */
static void facts_end(void **state)
{
    (void)state;
    Kernel *k = kernel_new("chain");
    k->grid_rank = 1;
    Ref r = ir_leaf(k, OP_BLOCK, (Type){DT_S64, 1, 1}, 0, 0, (Loc){0});
    for (int i = 0; i < 40; i++)
        r = binary(k, OP_ADD, r, r);
    k->grid[0] = r;
    double start = now_seconds();
    assert_int_equal(ir_divisor(k, r), 1);
    assert_true(ir_upper(k, r) == INT64_MAX);
    assert_true(now_seconds() - start < 1);
    kernel_free(k);
}

static void bytes_count_padding(void **state)
{
    (void)state;
    static const int64_t sizes[SIZE_COUNT] = {[SIZE_TOKENS] = 3};
    static const struct { Memory m; int64_t bytes; } cases[] = {
        {{.elem = DT_F32, .rank = 2, .dim = {{2, SIZE_TOKENS}, {10, -1}}}, 2 * 3 * 10 * 4},
        {{.elem = DT_F32, .rank = 2, .dim = {{2, SIZE_TOKENS}, {10, -1}}, .pitch = 16}, 2 * 3 * 16 * 4},
        {{.elem = DT_BF16, .rank = 3, .dim = {{5, -1}, {7, -1}, {20, -1}}, .layout = LAYOUT_PANEL, .unit = 2, .wide = 16},
         5 * 8 * 32 * 2},
        {{.elem = DT_U4, .rank = 2, .dim = {{9, -1}, {16, -1}}, .layout = LAYOUT_PANEL, .unit = 8, .wide = 16}, 16 * 16 / 2},
        {{.elem = DT_U4, .rank = 1, .dim = {{3, -1}}}, 2},
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(memory_bytes(&cases[i].m, sizes), cases[i].bytes);
}

static void masks_only_where_needed(void **state)
{
    (void)state;
    static const char text[] = "kernel \"k\"\n"
                               "%1 = memory global 0 in f32 x[tokens, 2048]\n"
                               "%2 = memory global 1 in f32 z[tokens, 1000]\n"
                               "%3 = const 0 : s64\n%4 = const 2048 : s64\n%5 = loop %3, %4 step 64\n"
                               "%6 = view %1[%3, %5] 1x64\n%7 = view %1[%3, %5] 4x64\n%8 = view %2[%3, %5] 1x64\n"
                               "%9 = view %1[%3, %5] 4x64 inside\n%10 = view %1[%5, %3] 64x1 transposed\nend\n";
    static const struct { Ref view; int rows, cols; } expect[] = {
        {6, 0, 0}, {7, 1, 0}, {8, 0, 1}, {9, 0, 0}, {10, 0, 0}};
    Err err = {0};
    Kernel *k = parse(text, &err);
    assert_string_equal(err.text, "");
    for (size_t i = 0; i < COUNT(expect); i++) {
        int rows, cols;
        bool any = view_needs_mask(k, ir_at(k, expect[i].view), &rows, &cols);
        assert_int_equal(rows, expect[i].rows);
        assert_int_equal(cols, expect[i].cols);
        assert_int_equal(any, rows || cols);
    }
    kernel_free(k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_round_trip),
        cmocka_unit_test(files_are_accepted),
        cmocka_unit_test(files_cover_every_operation),
        cmocka_unit_test(verifier_refuses_and_accepts),
        cmocka_unit_test(messages_name_the_place),
        cmocka_unit_test(damaged_kernels_are_refused),
        cmocka_unit_test(parser_refuses),
        cmocka_unit_test(text_becomes_canonical),
        cmocka_unit_test(numbers_keep_every_bit),
        cmocka_unit_test(unchecked_kernels_print),
        cmocka_unit_test(nested_too_deep),
        cmocka_unit_test(instruction_limit),
        cmocka_unit_test(tiles_have_a_limit),
        cmocka_unit_test(facts_are_true),
        cmocka_unit_test(facts_end),
        cmocka_unit_test(bytes_count_padding),
        cmocka_unit_test(masks_only_where_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
