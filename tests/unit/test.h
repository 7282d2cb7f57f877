/* test.h - what every unit test includes: cmocka with the headers it wants, and base.h. */
#ifndef BLADE_TEST_H
#define BLADE_TEST_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "base.h"
#endif
