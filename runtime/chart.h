/* chart.h - line charts as SVG: axes with round ticks, a grid, a legend; linear or logarithmic upwards. */
#ifndef BLADE_CHART_H
#define BLADE_CHART_H

#include "base.h"

typedef struct ChartSeries {
    const char *label;    /* in the legend; valid UTF-8 */
    const double *x, *y;  /* [n]; points that are not finite are left out (and those <= 0 with log_y) */
    size_t n;
    int color;            /* 0.. of a palette that colour-blind people can tell apart; it repeats after 7 */
    bool dashed;
} ChartSeries;

typedef struct Chart {
    const char *title, *x_label, *y_label;
    const ChartSeries *series;
    size_t series_count;
    bool log_y;
} Chart;

/* Appends an SVG document of its own. A chart without points has axes from 0 to 1 (1 to 10 with log_y). */
void chart_svg(const Chart *c, Buf *out);

/* Round ticks for lo..hi, at most `max` of them, from below lo to above hi: *first, *step. hi > lo. */
void chart_ticks(double lo, double hi, int max, double *first, double *step);

#endif
