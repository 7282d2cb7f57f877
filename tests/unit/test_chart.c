/* Charts: ticks, where points come to lie, what is left out, text that must be escaped. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "chart.h"
#include "test.h"

static void ticks(void **state)
{
    (void)state;
    static const struct { double lo, hi; int max; double first, step; } cases[] = {
        {0, 100, 10, 0, 20},
        {0, 100, 11, 0, 10},
        {0, 1, 11, 0, 0.1},
        {0, 7.3, 10, 0, 1},
        {0, 43, 10, 0, 5},
        {0, 21, 10, 0, 2.5},
        {-3, 4, 10, -3, 1},
        {0.013, 0.019, 8, 0.013, 0.001},
        {0, 0.00091, 10, 0, 0.0002},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        double first, step;
        chart_ticks(cases[i].lo, cases[i].hi, cases[i].max, &first, &step);
        assert_true(fabs(first - cases[i].first) < 1e-9 * step);
        assert_true(fabs(step - cases[i].step) < 1e-9 * step);
    }
}

static int count(const char *text, const char *what)
{
    int n = 0;
    while ((text = strstr(text, what))) {
        n++;
        text += strlen(what);
    }
    return n;
}

static void points(void **state)
{
    (void)state;
    double x[] = {0, 5, 10, NAN, 7}, y[] = {0, 50, 100, 3, INFINITY};
    ChartSeries s = {"a", x, y, 5, 0, false};
    Chart c = {"title", "x", "y", &s, 1, false};
    Buf out = {0};
    chart_svg(&c, &out);
    /* x from 80 to 860 over 0..10, y from 420 up to 56 over 0..100 */
    assert_non_null(strstr(out.data, "points=\"80.0,420.0 470.0,238.0 860.0,56.0 \""));
    assert_int_equal(count(out.data, "<circle"), 3 + 1); /* and one in the legend */
    assert_non_null(strstr(out.data, ">100</text>"));
    assert_null(strstr(out.data, "nan"));
    assert_null(strstr(out.data, "inf"));
    buf_free(&out);
}

static void logarithmic(void **state)
{
    (void)state;
    double x[] = {1, 2, 3}, y[] = {1, 100, 0};
    ChartSeries s = {"a", x, y, 3, 1, true};
    Chart c = {"title", "x", "y", &s, 1, true};
    Buf out = {0};
    chart_svg(&c, &out);
    assert_int_equal(count(out.data, "<circle"), 2 + 1); /* 0 has no logarithm */
    assert_non_null(strstr(out.data, ",420.0 ")); /* 1 at the foot */
    assert_non_null(strstr(out.data, ",56.0 "));  /* 100 at the top */
    assert_non_null(strstr(out.data, ">50</text>"));
    assert_non_null(strstr(out.data, "stroke-dasharray"));
    buf_free(&out);
}

static void empty(void **state)
{
    (void)state;
    double gone = NAN;
    ChartSeries s = {"a", &gone, &gone, 1, 0, false};
    for (int log = 0; log < 2; log++)
        for (size_t n = 0; n < 2; n++) {
            Chart c = {"title", "x", "y", &s, n, log};
            Buf out = {0};
            chart_svg(&c, &out);
            assert_null(strstr(out.data, "nan"));
            assert_non_null(strstr(out.data, "</svg>"));
            buf_free(&out);
        }
    double x[] = {3, 3}, y[] = {5, 5}; /* a single place */
    Chart c = {"title", "x", "y", &(ChartSeries){"a", x, y, 2, 0, false}, 1, false};
    Buf out = {0};
    chart_svg(&c, &out);
    assert_null(strstr(out.data, "nan"));
    buf_free(&out);
}

static void escaping(void **state)
{
    (void)state;
    ChartSeries s = {"<a> & \"b\" \xff\x01", NULL, NULL, 0, 99, false};
    Chart c = {"zw\xc3\xb6lf", "x", "y", &s, 1, false};
    Buf out = {0};
    chart_svg(&c, &out);
    assert_non_null(strstr(out.data, ">&lt;a&gt; &amp; \"b\" \xef\xbf\xbd </text>"));
    assert_non_null(strstr(out.data, ">zw\xc3\xb6lf</text>"));
    buf_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ticks), cmocka_unit_test(points), cmocka_unit_test(logarithmic), cmocka_unit_test(empty),
        cmocka_unit_test(escaping),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
