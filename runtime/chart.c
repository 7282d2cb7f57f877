/* chart.c - line charts as SVG; see chart.h. Coordinates are pixels of the picture, y downwards. */
#include "chart.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 880, HEIGHT = 500, LEFT = 80, RIGHT = 860, TOP = 56, BOTTOM = 420, ROW = 20 };

/* Okabe and Ito, "Color universal design" (2008), without yellow and black. */
static const char *const palette[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"};

typedef struct Axis {
    double lo, hi, step; /* of the logarithm on a logarithmic axis, where step is 0 */
    bool log;
} Axis;

/* ---- scales ---------------------------------------------------------------------------------------------------- */

void chart_ticks(double lo, double hi, int max, double *first, double *step)
{
    double raw = (hi - lo) / max, power = pow(10, floor(log10(raw)));
    static const double round_steps[] = {1, 2, 2.5, 5, 10};
    for (size_t i = 0; i < COUNT(round_steps); i++) {
        *step = round_steps[i] * power;
        *first = floor(lo / *step + 1e-9) * *step;
        if (ceil((hi - *first) / *step - 1e-9) + 1 <= max)
            return;
    }
    *step = 20 * power;
    *first = floor(lo / *step + 1e-9) * *step;
}

static bool visible(const Chart *c, const ChartSeries *s, size_t i)
{
    return isfinite(s->x[i]) && isfinite(s->y[i]) && (!c->log_y || s->y[i] > 0);
}

/* The smallest and largest value shown; false when there is none. */
static bool bounds(const Chart *c, bool vertical, double *lo, double *hi)
{
    *lo = INFINITY;
    *hi = -INFINITY;
    for (size_t k = 0; k < c->series_count; k++)
        for (size_t i = 0; i < c->series[k].n; i++)
            if (visible(c, &c->series[k], i)) {
                double v = vertical ? c->series[k].y[i] : c->series[k].x[i];
                *lo = fmin(*lo, v);
                *hi = fmax(*hi, v);
            }
    return *lo <= *hi;
}

/* Linear axes begin at 0 unless something is below. */
static Axis linear_axis(const Chart *c, bool vertical)
{
    Axis a = {0};
    if (!bounds(c, vertical, &a.lo, &a.hi))
        a.lo = a.hi = 0;
    a.lo = fmin(a.lo, 0);
    if (a.hi <= a.lo)
        a.hi = a.lo + 1;
    double first;
    chart_ticks(a.lo, a.hi, 10, &first, &a.step);
    a.lo = first;
    a.hi = first + ceil((a.hi - first) / a.step - 1e-9) * a.step;
    return a;
}

static Axis log_axis(const Chart *c)
{
    Axis a = {.log = true};
    if (!bounds(c, true, &a.lo, &a.hi))
        return (Axis){0, 1, 0, true};
    a.lo = floor(log10(a.lo) + 1e-9);
    a.hi = ceil(log10(a.hi) - 1e-9);
    if (a.hi <= a.lo)
        a.hi = a.lo + 1;
    return a;
}

static double place(const Axis *a, double value, double from, double to)
{
    double v = a->log ? log10(value) : value;
    return from + (v - a->lo) / (a->hi - a->lo) * (to - from);
}

/* ---- drawing --------------------------------------------------------------------------------------------------- */

/* Escaped; what is not UTF-8 becomes U+FFFD, so that the document stays well-formed. */
static void put_text(Buf *out, const char *text)
{
    size_t len = strlen(text);
    for (size_t i = 0; i < len;) {
        uint32_t c;
        char bytes[4];
        i += utf8_decode(text + i, len - i, &c);
        const char *as = c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c < ' ' ? " " : NULL;
        if (as)
            buf_puts(out, as);
        else
            buf_put(out, bytes, utf8_encode(c, bytes));
    }
}

static void label(Buf *out, double x, double y, const char *attributes, const char *text)
{
    buf_printf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes);
    put_text(out, text);
    buf_puts(out, "</text>\n");
}

static void line(Buf *out, double x1, double y1, double x2, double y2, const char *color)
{
    buf_printf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, color);
}

static void x_tick(Buf *out, const Axis *a, double value)
{
    char text[32];
    double x = place(a, value, LEFT, RIGHT);
    snprintf(text, sizeof text, "%.6g", fabs(value) < a->step * 1e-6 ? 0 : value);
    line(out, x, TOP, x, BOTTOM, "#e4e4e4");
    label(out, x, BOTTOM + 18, "text-anchor=\"middle\"", text);
}

static void y_tick(Buf *out, const Axis *a, double value, bool named)
{
    char text[32];
    double y = place(a, value, BOTTOM, TOP);
    snprintf(text, sizeof text, "%.6g", !a->log && fabs(value) < a->step * 1e-6 ? 0 : value);
    line(out, LEFT, y, RIGHT, y, named ? "#d8d8d8" : "#f0f0f0");
    if (named)
        label(out, LEFT - 8, y + 4, "text-anchor=\"end\"", text);
}

static void grid(Buf *out, const Axis *x, const Axis *y)
{
    int columns = (int)lround((x->hi - x->lo) / x->step);
    for (int i = 0; i <= columns; i++)
        x_tick(out, x, x->lo + i * x->step);
    if (!y->log) {
        int rows = (int)lround((y->hi - y->lo) / y->step);
        for (int i = 0; i <= rows; i++)
            y_tick(out, y, y->lo + i * y->step, true);
        return;
    }
    bool few = y->hi - y->lo < 3; /* name 2 and 5 as well */
    for (int power = (int)y->lo; power <= (int)y->hi; power++)
        for (int digit = 1; digit < (power < (int)y->hi ? 10 : 2); digit++)
            y_tick(out, y, digit * pow(10, power), digit == 1 || (few && (digit == 2 || digit == 5)));
}

static void curve(Buf *out, const Chart *c, const ChartSeries *s, const Axis *x, const Axis *y)
{
    const char *color = palette[(size_t)s->color % COUNT(palette)];
    buf_printf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s points=\"", color,
               s->dashed ? " stroke-dasharray=\"7 4\"" : "");
    for (size_t i = 0; i < s->n; i++)
        if (visible(c, s, i))
            buf_printf(out, "%.1f,%.1f ", place(x, s->x[i], LEFT, RIGHT), place(y, s->y[i], BOTTOM, TOP));
    buf_puts(out, "\"/>\n");
    for (size_t i = 0; i < s->n; i++)
        if (visible(c, s, i))
            buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\" stroke=\"%s\"/>\n",
                       place(x, s->x[i], LEFT, RIGHT), place(y, s->y[i], BOTTOM, TOP), s->dashed ? "white" : color,
                       color);
}

static void sample_line(Buf *out, double x, double y, const char *color, bool dashed)
{
    buf_printf(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2\"%s/>\n",
               x, y, x + 32, y, color, dashed ? " stroke-dasharray=\"7 4\"" : "");
}

/* Below the chart, two entries a row. */
static void legend(Buf *out, const Chart *c)
{
    for (size_t i = 0; i < c->series_count; i++) {
        const ChartSeries *s = &c->series[i];
        double x = LEFT + (i % 2 ? (RIGHT - LEFT) / 2.0 : 0), y = HEIGHT - 8 + ROW * (double)(i / 2);
        const char *color = palette[(size_t)s->color % COUNT(palette)];
        sample_line(out, x, y - 4, color, s->dashed);
        buf_printf(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\" stroke=\"%s\"/>\n", x + 16, y - 4,
                   s->dashed ? "white" : color, color);
        label(out, x + 40, y, "", s->label);
    }
}

void chart_svg(const Chart *c, Buf *out)
{
    Axis x = linear_axis(c, false), y = c->log_y ? log_axis(c) : linear_axis(c, true);
    int height = HEIGHT + 8 + ROW * (int)((c->series_count + 1) / 2);
    buf_printf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\"", WIDTH,
               height, WIDTH, height);
    buf_puts(out, " font-family=\"DejaVu Sans, Arial, sans-serif\" font-size=\"12\" fill=\"#222222\">\n");
    buf_printf(out, "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", WIDTH, height);
    label(out, (LEFT + RIGHT) / 2.0, 30, "text-anchor=\"middle\" font-size=\"16\"", c->title);
    grid(out, &x, &y);
    line(out, LEFT, BOTTOM, RIGHT, BOTTOM, "#444444");
    line(out, LEFT, TOP, LEFT, BOTTOM, "#444444");
    for (size_t i = 0; i < c->series_count; i++)
        curve(out, c, &c->series[i], &x, &y);
    label(out, (LEFT + RIGHT) / 2.0, BOTTOM + 42, "text-anchor=\"middle\"", c->x_label);
    buf_printf(out, "<g transform=\"translate(22 %d) rotate(-90)\">", (TOP + BOTTOM) / 2);
    label(out, 0, 0, "text-anchor=\"middle\"", c->y_label);
    buf_puts(out, "</g>\n");
    legend(out, c);
    buf_puts(out, "</svg>\n");
}
