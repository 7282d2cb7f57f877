/* test.h - what every unit test includes: cmocka with the headers it wants, base.h, writing a file. */
#ifndef BLADE_TEST_H
#define BLADE_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base.h"

/* Writes a file below `dir`, with the folders that it needs. */
static inline void test_write(const char *dir, const char *name, const char *text)
{
    char path[512];
    Err err = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    char *slash = strrchr(path, '/');
    *slash = 0;
    assert_true(dir_make(path, &err));
    *slash = '/';
    if (!file_write_atomic(path, text, strlen(text), &err))
        fail_msg("%s", err.text);
}
#endif
